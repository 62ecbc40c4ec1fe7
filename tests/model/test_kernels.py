"""Which program attention is where, what is refused, and what is asked of cuDNN.

No GPU is needed: what cuDNN would be handed is read from the program that is exported for one.
"""

import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.config import Config, InputError, MeshConfig, ModelConfig, TrainConfig
from gpt_jax.model.context_parallel import attend_cudnn
from gpt_jax.model.decoder import GPT
from gpt_jax.model.kernels import Choice, choose_attention
from gpt_jax.presets import GPT3_SIZES, gpt3
from gpt_jax.train.step import Program


def gpu(capability, kind="NVIDIA H100 80GB HBM3"):
    return SimpleNamespace(platform="gpu", device_kind=kind, compute_capability=capability)


TPU = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
CPU = SimpleNamespace(platform="cpu", device_kind="cpu")
H100, A100, T4 = gpu("9.0"), gpu("8.0", "NVIDIA A100"), gpu("7.5", "Tesla T4")
MI300 = gpu("gfx942", "AMD Instinct MI300X")
# Head dim 64.
MODEL = ModelConfig(embed_dim=256, num_heads=4, dtype="bfloat16")


def choose(device, *, length=2048, parts=1, segmented=False, **fields):
    model = dataclasses.replace(MODEL, **fields)
    return choose_attention(model, device, length=length, parts=parts, segmented=segmented)


def test_each_platform_has_its_own():
    assert choose(TPU) == Choice("splash")
    assert choose(H100) == Choice("cudnn")
    assert choose(A100) == Choice("cudnn")
    assert choose(CPU) == Choice("xla")


def test_every_size_of_the_paper_has_the_kernel_of_its_platform():
    """Head dims 64, 80, 96 and 128; on GPUs in bfloat16."""
    models = [dataclasses.replace(gpt3(size).model, dtype="bfloat16") for size in GPT3_SIZES]
    assert {model.head_dim for model in models} == {64, 80, 96, 128}
    for device, kernel in ((TPU, "splash"), (H100, "cudnn"), (A100, "cudnn")):
        chosen = {
            choose_attention(model, device, length=2048, parts=1, segmented=False).kernel
            for model in models
        }
        assert chosen == {kernel}


# device, what is asked, the rule and the value as they are said
LACKS = {
    "length": (TPU, {"length": 1000}, "multiple of 128 tokens on each device, and 1000 are not"),
    "parts": (TPU, {"parts": 32}, "and 2048 over sequence = 32 devices are not"),
    "dropout": (TPU, {"attention_dropout": 0.1}, r"splash attention has no dropout .* is 0\.1"),
    "dtype": (H100, {"dtype": "float32"}, "needs --model.dtype bfloat16, and it is float32"),
    "wide": (A100, {"num_heads": 1}, "up to 128 on these GPUs, and it is 256"),
    "odd": (H100, {"embed_dim": 240, "num_heads": 20}, "a multiple of 8 up to 256 .* it is 12"),
    "gpu-dropout": (H100, {"attention_dropout": 0.1}, r"cuDNN's attention has no dropout"),
    "segments": (H100, {"segmented": True}, "cannot keep documents apart"),
    "split": (H100, {"parts": 2}, "split over sequence = 2 devices"),
    "old": (T4, {}, r"compute capability 8\.0 or more, and the devices are Tesla T4 \(gpu\)"),
    "amd": (MI300, {}, "needs NVIDIA GPUs .* AMD Instinct MI300X"),
}


@pytest.mark.parametrize("case", LACKS)
def test_what_a_kernel_cannot_do_goes_by_xla_or_is_refused_where_it_is_forced(case):
    """With the rule and the value: in the log in the one case, in the error in the other."""
    device, asked, said = LACKS[case]
    chosen = choose(device, **asked)
    assert chosen.kernel == "xla"
    assert re.search(said, chosen.describe(MODEL))
    own = {"tpu": "splash", "gpu": "cudnn"}[device.platform]
    with pytest.raises(InputError, match=said) as error:
        choose(device, attention=own, **asked)
    assert "set --model.attention auto" in str(error.value)
    assert choose(device, attention="xla", **asked) == Choice("xla")


def test_a_kernel_of_another_platform_is_refused():
    with pytest.raises(InputError, match="splash attention needs TPUs, and the devices are cpu"):
        choose(CPU, attention="splash")
    with pytest.raises(InputError, match=r"the devices are NVIDIA H100 80GB HBM3 \(gpu\)"):
        choose(H100, attention="splash")
    with pytest.raises(InputError, match=r"NVIDIA GPUs .*, and the devices are TPU v5 lite \(tpu"):
        choose(TPU, attention="cudnn")
    assert choose(TPU, attention="splash") == Choice("splash")
    assert choose(A100, attention="cudnn", num_heads=2) == Choice("cudnn")  # head dim 128


def test_the_log_names_each_kind_of_layer_once():
    model = dataclasses.replace(MODEL, attention_pattern=("dense", "banded", "dense", "banded"))
    assert Choice("splash").describe(model) == "splash for dense layers, splash for banded layers"
    assert Choice("xla", "why").describe(MODEL) == "xla for dense layers; why"


def step_program(**fields):
    model = ModelConfig(vocab_size=60, context_length=128, num_layers=2, embed_dim=16, **fields)
    return Program(
        Config(
            model=model,
            train=TrainConfig(total_tokens=128, batch_tokens=128),
            mesh=MeshConfig(1, 1, 1),
        ),
        jax.devices()[:1],
    )


def test_a_program_asks_the_devices_of_its_mesh():
    """The config of the run stays as it was asked for, and holds wherever the run goes on."""
    program = step_program()
    assert program.attention == Choice("xla")
    assert program.model.config.attention == "xla"
    assert program.config.model.attention == "auto"
    with pytest.raises(InputError, match="splash attention needs TPUs, and the devices are cpu"):
        step_program(attention="splash")


def test_a_model_gives_the_same_logits_with_the_kernel_as_without():
    """As a library, where the config is obeyed: both kinds of layer, to float32 rounding."""
    config = ModelConfig(
        vocab_size=60,
        context_length=128,
        num_layers=2,
        embed_dim=32,
        num_heads=2,
        attention_pattern=("dense", "banded"),
        attention_window=20,
    )
    tokens = np.random.default_rng(0).integers(0, 60, (2, 128))
    with_kernel = dataclasses.replace(config, attention="splash")
    params = jax.jit(GPT(with_kernel).init)(jax.random.key(0), tokens[:1, :1])
    plain = jax.jit(GPT(config).apply)(params, tokens)
    np.testing.assert_allclose(jax.jit(GPT(with_kernel).apply)(params, tokens), plain, atol=1e-5)
    with pytest.raises(InputError, match="multiple of 128 tokens on each device, and 100 are not"):
        jax.eval_shape(GPT(with_kernel).apply, params, tokens[:, :100])


@pytest.mark.parametrize(("window", "keys"), [(None, "0"), (100, "100"), (1, "1")])
def test_what_cudnn_is_told(monkeypatch, window, keys):
    """The calls in a program for CUDA, forward and backward: causal, and a window that counts the
    query itself (0 is none), as in (place - window, place] of cuDNN's sliding window. Without the
    causal mask it would see all keys after it (jax-ml/jax pull request 39576).
    """
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    # The lowering asks which cuDNN and which GPU there is, and here is neither.
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91800)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda _: False)

    def total(q, k, v):
        return attend_cudnn(q, k, v, scale=0.25, window=window).astype(jnp.float32).sum()

    names = ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    text = jax.export.export(
        jax.jit(jax.grad(total, (0, 1, 2))),
        platforms=["cuda"],
        disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(name) for name in names],
    )(*[jax.ShapeDtypeStruct((2, 256, 4, 64), jnp.bfloat16)] * 3).mlir_module()
    calls = [line for line in text.splitlines() if "custom_call @__cudnn" in line]
    assert [re.search(r"@([\w$]+)", line)[1] for line in calls] == names
    for line in calls:
        told = dict(re.findall(r'"(\w+)": "?([\w.]+)', line.replace("\\22", '"')))
        assert told["mask_type"] == "CAUSAL"
        assert told["sliding_window_length"] == keys
        assert told["fmha_scale"] == "0.25"
        assert told["dropout_rate"] == "0.0"
