"""The command line: `gpt-jax train | generate | convert | export | data | bench | shard | ...`.

Everything heavy is imported by the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import importlib
import json
import logging
import math
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpt_jax.config import STEP_HELP, Config, InputError, require
from gpt_jax.experiment import defined, load_experiment, overridden
from gpt_jax.paths import told_of_buckets, user_path

OF_EXPERIMENTS = ("train", "bench", "shard", "plan", "launch")
"""Commands that take an experiment's fields as options."""
OF_RECIPES = (["data", "build"], ["data", "bench"])
"""Those that take a recipe's."""
OF_RUNS = {
    "generate": ("write text with a trained model", "gpt_jax.generate"),
    "evaluate": ("score a trained model on tasks and texts", "gpt_jax.evaluate"),
    "inspect": ("look inside a model, on one page", "gpt_jax.evaluate.inspect"),
    "report": ("compare evaluations on one page", "gpt_jax.evaluate.report"),
    "scaling": ("fit scaling laws, and be advised by them", "gpt_jax.scaling"),
    "serve": ("answer OpenAI's clients, and a chat page, with a model", "gpt_jax.generate.serve"),
    "chat": ("talk with a model in the terminal", "gpt_jax.generate.chat"),
}
"""Commands that do something with runs: what they are for, and the package that has their
`options.add_options(parser, name)`, of the standard library alone, and `command.run(options)`."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 1 for bad input, 2 for a bad command line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    takes_fields = argv[:1] and (argv[0] in OF_EXPERIMENTS or argv[:2] in OF_RECIPES)
    asks_fields = takes_fields and "--help" in argv[2 if argv[0] in OF_EXPERIMENTS else 3 :]
    parser = _parser()
    known, overrides = parser.parse_known_args(
        [word for word in argv if word != "--help"] if asks_fields else argv
    )
    if asks_fields:
        # The options of an experiment are its fields, so that it must be read to list them.
        overrides = ["--help"]
    if overrides and not takes_fields:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    # After a save or a read that failed these have pages to tell of what Orbax left behind.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    try:
        with told_of_buckets():
            for name, value in vars(known).items():
                if isinstance(value, Path):  # which has made gs:/ of gs://
                    setattr(known, name, user_path(value))
            known.run(known, overrides)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough; nothing can be said any more, not even at exit.
        sys.stdout = None
        return 0 if known.command == "generate" else 1
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        print(
            f"error: there must be room on the disk, and there is none ({error}). What was whole "
            "before still is, the last good checkpoint too: make room, and give the same command.",
            file=sys.stderr,
        )
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpt-jax", description="Train, sample and study GPT models.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    experiment_help = (
        "a Python file with get_config(), such as experiments/quickstart.py, or the folder of a "
        "run, to go on from its parameters in a new one"
    )
    override_help = (
        "Any field of the experiment can be given as an option, such as --model.num-layers 6; "
        "`gpt-jax %s EXPERIMENT --help` lists them."
    )

    def add(name: str, help: str, epilog: str | None = None) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=help, description=help, epilog=epilog, allow_abbrev=False
        )

    train = add("train", "train an experiment, or continue its run", override_help % "train")
    train.add_argument("experiment", type=Path, help=experiment_help)
    train.add_argument("--workdir", type=Path, help="the run's folder (default: new, in runs/)")
    _add_host_options(train)
    train.set_defaults(run=_train)

    for name, (help, module) in OF_RUNS.items():
        command = add(name, help)
        importlib.import_module(f"{module}.options").add_options(command, name)
        command.set_defaults(run=partial(_of_run, module))

    dtypes = ("float32", "bfloat16", "float16")
    convert = add("convert", "make a run of a model in the Hugging Face format")
    convert.add_argument("folder", metavar="DIR", type=Path, help="with config.json and weights")
    convert.add_argument("run_folder", metavar="RUN", type=Path, help="a new folder, for the run")
    convert.add_argument("--dtype", choices=dtypes, help="of the weights (default: as they are)")
    convert.add_argument(
        "--fsdp", type=int, default=1, help="devices to split the weights over (default: 1)"
    )
    convert.set_defaults(run=_convert)

    export = add("export", "write a run's model in the Hugging Face format")
    export.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run")
    export.add_argument("folder", metavar="DIR", type=Path, help="a new folder, for the model")
    export.add_argument("--dtype", choices=dtypes, help="of the weights (default: as they are)")
    export.add_argument("--step", metavar="N|best|last", help=STEP_HELP)
    export.add_argument(
        "--max-file-gb", type=float, default=5.0, help="of weights in one file (default: 5)"
    )
    export.set_defaults(run=_export)

    bench = add("bench", "measure an experiment's speed on this machine", override_help % "bench")
    bench.add_argument("experiment", type=Path, help=experiment_help)
    bench.add_argument("--json", action="store_true", help="print one JSON object")
    bench.set_defaults(run=_bench)

    shard = add("shard", "show where each parameter would lie", override_help % "shard")
    shard.add_argument("experiment", type=Path, help=experiment_help)
    shard.add_argument("--devices", type=int, help="how many (default: as the mesh says)")
    shard.add_argument("--json", action="store_true", help="print one JSON object")
    shard.set_defaults(run=_shard)

    _data_options(add("data", "make a corpus as the GPT-3 paper did"))
    _plan_options(add("plan", "which slice, which mesh, how long", override_help % "plan"))
    _launch_options(add("launch", "train on rented slices of Cloud TPU", override_help % "launch"))
    return parser


def _data_options(data: argparse.ArgumentParser) -> None:
    from gpt_jax.data.options import add_options  # of the standard library alone

    add_options(data)
    data.set_defaults(run=_data)


def _plan_options(plan: argparse.ArgumentParser) -> None:
    from gpt_jax.plan.options import add_options  # of the standard library alone

    add_options(plan)
    plan.set_defaults(run=_plan)


def _launch_options(launch: argparse.ArgumentParser) -> None:
    from gpt_jax.launch.command import add_options  # of the standard library alone

    add_options(launch)
    launch.set_defaults(run=_launch)


def _add_host_options(train: argparse.ArgumentParser) -> None:
    several = train.add_argument_group(
        "several hosts",
        "On Cloud TPU and SLURM they find each other: start the same command on every one. "
        "Elsewhere tell each of them where the first is.",
    )
    several.add_argument("--coordinator", metavar="ADDRESS:PORT", help="of the first host")
    several.add_argument("--num-hosts", type=int, metavar="N", help="how many there are")
    several.add_argument("--host-index", type=int, metavar="I", help="of this one: 0 is the first")
    several.add_argument(
        "--coordinator-bind",
        metavar="ADDRESS:PORT",
        help="for the first host to listen on (default: --coordinator)",
    )


def _open_foreign(folder: Path) -> Any:
    """What of a folder in the Hugging Face format a run can start from."""
    from gpt_jax.interop.origin import open_folder

    return open_folder(folder)


def _scorer(*parts: Any) -> Any:
    """What scores the tasks of a run while it is trained."""
    from gpt_jax.evaluate.training import scorer

    return scorer(*parts)


def _train(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from gpt_jax.parallel import platform

    platform.configure()
    config = load_experiment(options.experiment, overrides, reader=_open_foreign)
    from gpt_jax.parallel import hosts

    with hosts.joined(
        options.coordinator,
        options.num_hosts,
        options.host_index,
        options.coordinator_bind,
        config.train.heartbeat_seconds,
    ):
        _train_here(config, options, overrides)


def _train_here(config: Config, options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Train on this host, one of those that have joined; the first of them speaks."""
    from gpt_jax.parallel import hosts
    from gpt_jax.train.checkpoint import best_step
    from gpt_jax.train.loop import Outcome, train
    from gpt_jax.train.metrics import validation_in_words
    from gpt_jax.train.run import command, new_run_path

    hosts.require_agreement(lambda: {"--workdir": str(options.workdir)})
    # The default has the time in its name.
    workdir = options.workdir or Path(hosts.from_first(str(new_run_path(config.name))))

    def tell(outcome: Outcome) -> None:
        if outcome.stopped_by:
            words = ["train", str(options.experiment), "--workdir", str(workdir), *overrides]
            again = command([*words, *_host_words(options)])
            print(f"{outcome.stopped_by}: saved step {outcome.step}. To continue:\n  {again}")
            return
        prompt = outcome.config.train.sample_prompt
        same = "all held-out text" if outcome.config.train.eval_tokens else "the same text"
        gzip = outcome.gzip_bits_per_byte
        print(
            f"\n{validation_in_words(outcome.metrics)}"
            f"{f' (gzip -9 on {same}: {gzip:.4f})' if gzip else ''}\n",
            flush=True,
        )
        best = outcome.best
        if best.step and (best.step < outcome.step or best.metric != "val_loss"):
            kept = best_step(outcome.folder / "checkpoints") == best.step
            how = "of which there is no checkpoint"
            if kept:
                how = "which is what is read of this run" if best.patience else "--step best"
            print(
                f"best    {best.metric} {best.value:.4f} at step {best.step}, {how}\n", flush=True
            )
        try:
            sample = _write_sample(outcome.folder, outcome.config)
        except InputError as error:  # such as a prompt that is too long: no reason to hide the rest
            sample = f"(no sample: {error})"
        more = ["generate", str(outcome.folder), *(["--prompt", prompt] if prompt else [])]
        print(f"{sample}\n\nrun     {outcome.folder}\nmore    {command(more)}")

    if hosts.is_first():
        print(f"run     {workdir}", flush=True)
    else:
        logging.getLogger("gpt_jax").setLevel(logging.ERROR)  # the first says it
    outcome = train(config, workdir, _scorer, _open_foreign)
    # The others stay until it has spoken: a host that ends early is one that is lost.
    hosts.on_first(lambda: tell(outcome))


def _host_words(options: argparse.Namespace) -> list[str]:
    """The options that told this host of the others, to be given again."""
    names = ("coordinator", "num_hosts", "host_index", "coordinator_bind")
    given = {name: getattr(options, name) for name in names}
    return [
        word
        for name, value in given.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def _write_sample(run: Path, config: Config) -> str:
    """A sample of the run's model, kept in its folder as sample.txt; none of 0 tokens."""
    if config.train.sample_tokens == 0:
        return ""
    import jax

    from gpt_jax.flops import num_params
    from gpt_jax.generate.text import generate, room_after
    from gpt_jax.model.sampling import Sampling
    from gpt_jax.train.run import load

    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", float("inf"))
    needed = 4 * num_params(config.model)
    require(
        needed < memory,
        f"a model writes text on one device, and this one takes {needed / 2**30:,.1f} GiB of its "
        f"{memory / 2**30:,.1f}.",
    )
    _, params, tokenizer = load(run)
    prompt = config.train.sample_prompt
    room = room_after(config.model, tokenizer, [prompt])
    pieces = generate(
        config.model,
        params,
        tokenizer,
        [prompt],
        max_new_tokens=min(config.train.sample_tokens, room),
        how=Sampling(temperature=0.8),
        seed=config.train.seed,
    )
    text = prompt + "".join(piece for (piece,) in pieces)
    (run / "sample.txt").write_text(text, encoding="utf-8")
    return text


def _of_run(module: str, options: argparse.Namespace, _: Sequence[str]) -> None:
    from gpt_jax.parallel import platform

    platform.configure()
    options.reader, options.defined = _open_foreign, defined
    importlib.import_module(f"{module}.command").run(options)


def _convert(options: argparse.Namespace, _: Sequence[str]) -> None:
    from gpt_jax.flops import num_params
    from gpt_jax.interop.convert import convert
    from gpt_jax.train.run import command

    run = options.run_folder
    config = convert(options.folder, run, options.dtype, options.fsdp)
    more = command(["train", str(run), "--data.files", "TEXT"])
    print(
        f"run     {run}\nmodel   {num_params(config.model):,} parameters, vocabulary "
        f"{config.model.vocab_size:,}\nmore    {command(['generate', str(run)])}\n        {more}"
    )


def _export(options: argparse.Namespace, _: Sequence[str]) -> None:
    from gpt_jax.interop.convert import export

    require(
        1e-9 <= options.max_file_gb < 1e9,
        f"a file holds a positive number of GB, and --max-file-gb is {options.max_file_gb}.",
    )
    most = int(options.max_file_gb * 1e9)
    kind = export(options.run_folder, options.folder, options.dtype, most, options.step)
    print(f"{options.folder} holds the model of {options.run_folder} as transformers' {kind}.")


def _bench(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from gpt_jax.parallel import platform

    platform.configure()
    config = load_experiment(options.experiment, overrides, "bench", _open_foreign)
    _require_plain_step(config)
    from gpt_jax.bench import as_table, measure

    figures = measure(config)
    print(json.dumps(figures) if options.json else as_table(figures))


def _shard(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    config = load_experiment(options.experiment, overrides, "shard", _open_foreign)
    from gpt_jax.plan.shard import as_table, layout

    sizes = dataclasses.asdict(config.mesh).values()
    devices = math.prod(size for size in sizes if size > 0)
    found = layout(config, options.devices or devices)
    print(json.dumps(dataclasses.asdict(found)) if options.json else as_table(found))


def _data(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from gpt_jax.data import command

    if options.data_command in ("show", "tfds"):
        {"show": command.run_show, "tfds": command.run_tfds}[options.data_command](options)
        return
    from gpt_jax.data.recipe import Recipe

    recipe = defined(options.recipe)
    require(
        isinstance(recipe, Recipe),
        f"{options.recipe} is no recipe: its get_config() gives a {type(recipe).__name__}. An "
        "experiment is for `gpt-jax train`.",
    )
    name = options.data_command
    run = {"build": command.run_build, "bench": command.run_bench}[name]
    run(options, overridden(recipe, options.recipe, overrides, f"data {name}"))


def _plan(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    paths = [user_path(path) for path in options.experiment]
    experiments = [
        (path, load_experiment(path, overrides, "plan", _open_foreign)) for path in paths
    ]
    for _, config in experiments:
        _require_plain_step(config)
    from gpt_jax.plan.command import run

    run(options, experiments, overrides)


def _require_plain_step(config: Config) -> None:
    """InputError where the training step is not the one that bench and plan know."""
    require(
        not config.feedback.method,
        "what is measured and planned is the step of training on text and examples, and that of "
        f"feedback.method={config.feedback.method!r} holds another model, or draws answers: ask "
        "for the experiment that it begins from.",
    )


def _launch(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    config = load_experiment(options.experiment, overrides, "launch", _open_foreign)
    from gpt_jax.launch.command import run

    run(options, config, overrides)
