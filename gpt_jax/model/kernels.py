"""Which program attention is, by the devices and by what is asked of it.

There are three (`context_parallel.attend_over_mesh`): splash on TPUs, cuDNN on NVIDIA GPUs, and
blocks of plain XLA, which run anywhere and can do everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt_jax.config import AttentionKernel, ModelConfig, require
from gpt_jax.model.splash import LANES, length_rule


@dataclass(frozen=True)
class Choice:
    """The program of attention, chosen once for a run."""

    kernel: AttentionKernel
    """Never "auto"."""
    missed: str = ""
    """Why the kernel of the platform is not used, where it has one."""

    def describe(self, model: ModelConfig) -> str:
        """For the log: the program of each kind of layer."""
        kinds = dict.fromkeys(model.attention_pattern)
        layers = ", ".join(f"{self.kernel} for {kind} layers" for kind in kinds)
        return f"{layers}; {self.missed}" if self.missed else layers


def choose_attention(
    model: ModelConfig, device: Any, *, length: int, parts: int, segmented: bool
) -> Choice:
    """The program of attention for training on devices like `device`, which need not be here.

    Args:
      model: `model.attention` asks for one, or for the best there is.
      device: a jax.Device, or one of a topology that is compiled for.
      length, parts: tokens of a sequence, and devices that these are split over.
      segmented: whether documents in a sequence are kept apart.

    Raises InputError where the program that is asked for cannot do this.
    """
    if model.attention == "xla":
        return Choice("xla")
    lacks = {
        "splash": _splash_lacks(model, device, length, parts),
        "cudnn": _cudnn_lacks(model, device, parts, segmented),
    }
    if model.attention != "auto":
        missing = lacks[model.attention]
        require(not missing, f"{missing}: set --model.attention auto, or change that.")
        return Choice(model.attention)
    own: dict[str, AttentionKernel] = {"tpu": "splash", "gpu": "cudnn"}
    kernel = own.get(device.platform)
    if kernel is None:
        return Choice("xla")
    return Choice("xla", lacks[kernel]) if lacks[kernel] else Choice(kernel)


def _splash_lacks(model: ModelConfig, device: Any, length: int, parts: int) -> str:
    """The rule that is broken, and the value met; empty where splash attention can be had."""
    if device.platform != "tpu":
        return f"splash attention needs TPUs, and the devices are {_named(device)}"
    if model.attention_dropout:
        return _no_dropout("splash", model)
    if length % (LANES * parts):
        return f"splash attention needs {length_rule(length, parts)}"
    return ""


def _cudnn_lacks(model: ModelConfig, device: Any, parts: int, segmented: bool) -> str:
    """The rule that is broken, and the value met; empty where cuDNN's attention can be had.

    The rules are those of `jax._src.cudnn.fused_attention_stablehlo` (jax 0.10) and of cuDNN's
    support matrix, where flash attention begins with Ampere (compute capability 8.0):
    https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/operations/Attention.html
    """
    capability = _compute_capability(device)
    if capability < (8, 0):
        return (
            "cuDNN's attention needs NVIDIA GPUs of compute capability 8.0 or more, and the "
            f"devices are {_named(device)}"
        )
    most = 256 if capability >= (9, 0) else 128
    if model.dtype != "bfloat16":
        return f"cuDNN's attention needs --model.dtype bfloat16, and it is {model.dtype}"
    if model.head_dim % 8 or model.head_dim > most:
        return (
            f"cuDNN's attention needs a head dim of a multiple of 8 up to {most} on these GPUs, "
            f"and it is {model.head_dim}"
        )
    if model.attention_dropout:
        return _no_dropout("cuDNN's", model)
    if segmented:
        return "cuDNN's attention cannot keep documents apart (--data.isolate-documents)"
    if parts > 1:
        return (
            "cuDNN's attention needs whole sequences, and they are split over "
            f"sequence = {parts} devices"
        )
    return ""


def _compute_capability(device: Any) -> tuple[int, ...]:
    """(9, 0) for an H100; (0,) for what is not an NVIDIA GPU."""
    numbers = str(getattr(device, "compute_capability", "")).split(".")
    known = device.platform == "gpu" and all(number.isdecimal() for number in numbers)
    return tuple(int(number) for number in numbers) if known else (0,)


def _named(device: Any) -> str:
    kind, platform = device.device_kind, device.platform
    return kind if kind == platform else f"{kind} ({platform})"


def _no_dropout(name: str, model: ModelConfig) -> str:
    return (
        f"{name} attention has no dropout on attention, and --model.attention-dropout is "
        f"{model.attention_dropout}"
    )
