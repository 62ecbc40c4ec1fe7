"""gpt-jax scaling sweep and batch: what they print of what is there."""

import dataclasses
import json

from gpt_jax.cli import main
from gpt_jax.config import Config, ModelConfig, TrainConfig
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.scaling.sweep import Result, Sweep, members
from gpt_jax.train.run import write_run

FILE = """
from gpt_jax.config import Config, ModelConfig
from gpt_jax.scaling.sweep import Sweep

def get_config():
    base = Config(model=ModelConfig(embed_dim=32, num_heads=2))
    return Sweep("made", base, widths=(32, 64), learning_rates=(0.125, 0.25, 0.5))
"""


def test_a_sweep_that_is_done_is_told(tmp_path, capsys):
    """Parabolas with their lowest points at 1/4; and at sqrt(1/8 x 1/4) of the standard at 64."""
    (tmp_path / "made.py").write_text(FILE)
    sweep = Sweep(
        "made",
        Config(model=ModelConfig(embed_dim=32, num_heads=2)),
        widths=(32, 64),
        learning_rates=(0.125, 0.25, 0.5),
    )
    with (tmp_path / "made.jsonl").open("w") as file:
        for member in members(sweep):
            moved = member.width == 64 and member.parametrisation == "standard"
            losses = {0.125: 2.0, 0.25: 2.0 if moved else 1.0, 0.5: 4.0 if moved else 2.0}
            loss = losses[member.learning_rate]
            found = Result(*member, 1, 1, loss, loss, 0.0, sweep.digest)
            file.write(json.dumps(dataclasses.asdict(found)) + "\n")
    words = [str(tmp_path / "made.py"), "--out", str(tmp_path / "made.jsonl")]
    assert main(["scaling", "sweep", *words]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[-4:] == [
        ["standard", "32", "0.25", "1.0000"],
        ["standard", "64", "0.125", "2.0000"],
        ["mup", "32", "0.25", "1.0000"],
        ["mup", "64", "0.25", "1.0000"],
    ]


def test_an_experiment_is_no_sweep(tmp_path, capsys):
    (tmp_path / "made.py").write_text(FILE.replace("return Sweep", "return base\n    Sweep"))
    assert main(["scaling", "sweep", str(tmp_path / "made.py")]) == 1
    assert "returns a Config: give a file such as" in capsys.readouterr().err


def test_a_run_s_batch_law_is_told(tmp_path, capsys):
    """A noise scale of 64,000 / loss^4 tokens: 4,000 at the last loss of 2, which is 256 x 16."""
    config = Config(
        model=ModelConfig(context_length=16),
        train=TrainConfig(batch_tokens=1024, total_tokens=10**6),
    )
    write_run(tmp_path, config, ByteTokenizer())
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step, loss in enumerate((4.0, 3.0, 2.5, 2.0), 1):
            record = {"step": 10_000 * step, "tokens": 10**5 * step, "loss": loss}
            file.write(json.dumps(record | {"noise_scale": 64_000 / loss**4}) + "\n")
    assert main(["scaling", "batch", str(tmp_path)]) == 0
    law, last, ramp = capsys.readouterr().out.splitlines()
    assert law.startswith("B(L) = 6.4e+04 L^(-1/0.25) tokens, of 4 measurements")
    assert "2.0000 nats per token: 4,000 tokens; the run had 1,024" in last
    assert ramp.startswith("ramp    --train.ramp-start-tokens 256 --train.ramp-tokens ")
    assert ramp.endswith("--train.batch-tokens 4096 --train.device-batch-tokens 0")
    (tmp_path / "metrics.jsonl").unlink()
    assert main(["scaling", "batch", str(tmp_path)]) == 1
    assert "give the folder of a run" in capsys.readouterr().err
