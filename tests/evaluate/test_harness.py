"""The lm-evaluation-harness puts its own tasks to a run, and its figures are ours."""

import json
import os
import subprocess
import sys

import jax
import pytest
from random_model import random_params
from small_run import MODEL, make_run

from gpt_jax.config import InputError, MeshConfig
from gpt_jax.data.tasks.registry import find_task
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.evaluate.language_model import LanguageModel
from gpt_jax.evaluate.run import prepare, put, text_task
from gpt_jax.parallel.mesh import make_mesh

REASON = "lm-eval is not installed: pip install -e '.[harness]'"
lm_eval = pytest.importorskip("lm_eval", reason=REASON)

CHOICE = """
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: " "
metric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: acc_bytes}}]
"""
TEXT = """
task: told
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""
WRITTEN = """
task: written
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{target}}}}"
generation_kwargs: {{until: ["\\n", " "], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    made = LanguageModel(MODEL, ByteTokenizer(), make_mesh(MeshConfig(), jax.devices()[:1]), 1024)
    made.params = random_params(MODEL)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    """Three tasks of the harness over JSONL files; choices and texts of very different lengths."""
    folder = tmp_path_factory.mktemp("tasks")
    endings = ["bc", "gro\u00df", "three", "\u20ac\u20ac", "an ending"]
    choices = [
        {"prompt": f"Question {n}\nAnswer:", "answer": n * n % 5}
        | {"choices": [endings[(n + i) % 5] + str(n * i) for i in range(5)]}
        for n in range(60)
    ]
    texts = [{"text": f"  document {n}\n" + "word and w\u00f6rd " * n * n} for n in range(12)]
    prompts = [f"Say {n}:" for n in range(6)]
    said = model.generate(prompts, ("\n", " "), 8)
    written = [
        {"prompt": prompt, "target": text if n % 3 else "no"}
        for n, (prompt, text) in enumerate(zip(prompts, said, strict=True))
    ]
    for name, form, records in [
        ("mine", CHOICE, choices),
        ("told", TEXT, texts),
        ("written", WRITTEN, written),
    ]:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        (folder / f"{name}.yaml").write_text(form.format(path=path))
    # Ours follow the prompt as they are written: the harness puts a space before them.
    ours = [c | {"choices": [f" {text}" for text in c["choices"]]} for c in choices]
    (folder / "ours.jsonl").write_text("".join(json.dumps(record) + "\n" for record in ours))
    return folder


@pytest.fixture(scope="module")
def found(folder, model):
    """What the harness finds by its own code."""
    from lm_eval.tasks import TaskManager

    from gpt_jax.evaluate.harness import GPTJax

    told = lm_eval.simple_evaluate(
        model=GPTJax(model=model),
        tasks=["mine", "told", "written"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    return {
        name: {metric.partition(",")[0]: value for metric, value in of_task.items()}
        for name, of_task in told["results"].items()
    }


@pytest.mark.slow
def test_multiple_choice_is_the_same_to_the_last_digit(folder, model, found):
    """acc is by the likelihood as it is, acc_norm by characters, acc_bytes by bytes."""
    ours = put(model, prepare(find_task(str(folder / "ours.jsonl")), 0, 0, 0)).scores
    theirs = found["mine"]
    assert ours["accuracy"].value == theirs["acc"]
    assert ours["accuracy_per_character"].value == theirs["acc_norm"]
    assert ours["accuracy_per_byte"].value == theirs["acc_bytes"]
    assert len({theirs["acc"], theirs["acc_norm"], theirs["acc_bytes"]}) == 3


@pytest.mark.slow
def test_perplexity_is_the_same_to_the_last_digit(folder, model, found):
    """Of documents from no word to 14 windows."""
    ours = put(model, prepare(text_task(str(folder / "told.jsonl")), 0, 0, 0)).scores
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert ours[name].value == found["told"][name]


@pytest.mark.slow
def test_what_is_written_is_the_same(found):
    """Four of six targets are what the model says up to a space."""
    assert found["written"]["exact_match"] == pytest.approx(4 / 6)


@pytest.mark.slow
def test_the_windows_are_those_of_the_harness(model):
    """Its own functions, on texts around the borders of the context."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    for length in (1, 127, 128, 129, 256, 300):
        text = "".join(chr(n % 128) for n in range(length))
        ids = model.tokenizer.encode(text)
        windows = get_rolling_token_windows(
            token_list=ids.tolist(), prefix_token=256, max_seq_len=128, context_len=1
        )
        for row, window in zip(model._windows(ids), windows, strict=True):
            context, targets = make_disjoint_window(window)
            assert row.targets.tolist() == targets
            # The harness leaves out what lies before the context that it needs.
            inputs = [*context, *targets[:-1]]
            assert row.inputs.tolist()[-len(inputs) :] == inputs


@pytest.mark.slow
def test_generation_settings_are_those_of_the_request(model):
    """One list of requests with several settings; more tokens than the context has room for."""
    from lm_eval.api.instance import Instance

    from gpt_jax.evaluate.harness import GPTJax

    def request(text, **wishes):
        return Instance("generate_until", {}, (text, wishes), 0)

    made = GPTJax(model=model)
    asked = [
        request("ab", until=["\n"], max_gen_toks=5),
        request("ab", until="x", max_gen_toks=9),
        request("cd", until=["\n"], max_gen_toks=5),
    ]
    expected = [
        *model.generate(["ab"], ("\n",), 5),
        *model.generate(["ab"], ("x",), 9),
        *model.generate(["cd"], ("\n",), 5),
    ]
    assert made.generate_until(asked) == expected
    assert made._settings({"until": ["\n"]})[1] == 64
    assert made._settings({"temperature": 0.7, "do_sample": True})[2].temperature == 0.7


def test_a_misspelt_argument_is_told(model):
    """What the harness passes of its own is taken, read or not."""
    from gpt_jax.evaluate.harness import GPTJax

    own = {"batch_size": 1, "max_batch_size": None, "device": "cuda:0", "trust_remote_code": True}
    assert GPTJax.create_from_arg_obj({"model": model}, own).language_model is model
    with pytest.raises(InputError, match="'stp' is none of them: did you mean 'step'"):
        GPTJax.create_from_arg_string("run=RUN,stp=best", own)


def test_a_conversation_takes_our_template(model):
    from gpt_jax.evaluate.harness import GPTJax

    made = GPTJax(model=model)
    text = made.apply_chat_template([{"role": "user", "content": "Hello"}])
    assert text == "<|user|>\nHello\n<|end|>\n<|assistant|>\n"
    assert made.chat_template(True)
    assert made.tokenizer_name.startswith("gpt_jax-")


@pytest.mark.slow
def test_the_command_of_the_harness_finds_a_run(folder, tmp_path):
    """Another process; its figures lie in a file of the harness' own form."""
    run = make_run(tmp_path / "run")
    words = ["--model", "gpt_jax", "--model_args", f"run={run}", "--tasks", "mine"]
    words += ["--include_path", str(folder), "--output_path", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "gpt_jax.evaluate.harness", "run", *words],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").rglob("results_*.json")
    assert 0 < json.loads(path.read_text())["results"]["mine"]["acc,none"] < 1
