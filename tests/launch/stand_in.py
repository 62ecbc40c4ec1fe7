"""A stand-in for Google Cloud: `gcloud` on the PATH, machines that are folders, a bucket too.

What a session runs on a machine is run for real, by bash, with the machine's folder as its home;
`uv` there makes a `gpt-jax` that does what the test has written down for each of its starts.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

GCLOUD = """#!{python} -IS
import sys
sys.path.insert(0, {here!r})
from stand_in import gcloud
sys.exit(gcloud(sys.argv[1:]))
"""

UV = """#!/bin/bash
if [ "$1" = venv ]; then mkdir -p .venv/bin; fi
if [ "$1" = pip ]; then
  test "$5" = '.[tpu,gcs]'
  cp {train} .venv/bin/gpt-jax
fi
"""

TRAIN = """#!{python} -IS
import json, os, pathlib, signal, sys, time
cloud, home = pathlib.Path({cloud!r}), pathlib.Path(os.environ["HOME"])
index = int(home.name.rpartition("-")[2])
starts = cloud / f"starts-{{index}}.jsonl"
with starts.open("a") as file:
    print(json.dumps([str(pathlib.Path.cwd().relative_to(home)), *sys.argv[1:]]), file=file)
told = json.loads((cloud / "plan.json").read_text())["train"]
do = told[min(len(starts.read_text().splitlines()), len(told)) - 1]
print("error: host", index, "start", do, flush=True)
run = cloud / "bucket" / sys.argv[sys.argv.index("--workdir") + 1].removeprefix("gs://")
for word in do.split():
    verb, _, value = word.partition("=")
    if index == 0 and verb == "save":
        (run / "checkpoints" / value).mkdir(parents=True)
        (run / "checkpoints" / value / "commit_success.txt").touch()
    if index == 0 and verb in ("finish", "stopped"):
        run.mkdir(parents=True, exist_ok=True)
        by = None if verb == "finish" else "SIGTERM"
        (run / "summary.json").write_text(json.dumps({{"loss": 1.0, "stopped_by": by}}))
    if index == 0 and verb == "lose":
        (cloud / "lose").write_text(value)
    if verb == "lose" or verb == "hang":
        time.sleep(60)
    if verb == "kill" and index == int(value):
        os.kill(os.getpid(), signal.SIGKILL)
    if verb == "exit":
        sys.exit(int(value))
"""


class StandIn:
    """The cloud of one test, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        tools = folder / "host-bin"
        for path in (self.bin, tools, folder / "hosts", folder / "bucket" / "bkt"):
            path.mkdir(parents=True)
        here, python = str(Path(__file__).parent), sys.executable
        _script(self.bin / "gcloud", GCLOUD.format(python=python, here=here))
        _script(folder / "train", TRAIN.format(python=python, cloud=str(folder)))
        _script(tools / "uv", UV.format(train=shlex.quote(str(folder / "train"))))

    def plan(self, *train: str, **more: object) -> None:
        """What training does at each start, and what else happens.

        Words of a start: save=STEP, finish, stopped, lose=STATE (hangs), hang, kill=HOST, exit=N.
        hosts: how many there are; queue: states before ACTIVE; fails: for a verb, what its calls
        say instead of working, one after the other ("" works; "silent" reaches no host).
        """
        default = {"hosts": 2, "queue": ["WAITING_FOR_RESOURCES", "PROVISIONING"], "fails": {}}
        _write(self.folder / "plan.json", default | more | {"train": train})

    @property
    def lines(self) -> list[list[str]]:
        """Every line that gcloud was given."""
        path = self.folder / "lines.jsonl"
        text = path.read_text() if path.exists() else ""
        return [["gcloud", *json.loads(line)] for line in text.splitlines()]

    def starts(self, host: int = 0) -> list[list[str]]:
        """The folder and words of every start of gpt-jax on a host."""
        text = (self.folder / f"starts-{host}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    @property
    def resources(self) -> dict:
        """What the project is charged for."""
        path = self.folder / "resources.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def save(self, resources: dict) -> None:
        _write(self.folder / "resources.json", resources)

    def kill_hosts(self) -> None:
        """End what runs on the machines, and the machines with it."""
        for home in (self.folder / "hosts").iterdir():
            pid = home / "gpt-jax-run" / "pid"
            if pid.exists() and not (home / "gpt-jax-run" / "exit").exists():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(pid.read_text()), signal.SIGKILL)
            shutil.rmtree(home)


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def gcloud(argv: list[str]) -> int:
    """One line given to the stand-in; returns its exit status."""
    import subprocess

    cloud = StandIn.__new__(StandIn)
    cloud.folder = Path(sys.argv[0]).parents[1]
    with (cloud.folder / "lines.jsonl").open("a") as file:
        print(json.dumps(argv), file=file)
    plan = json.loads((cloud.folder / "plan.json").read_text())
    verb = argv[1] if argv[0] == "storage" else argv[3]
    said = plan["fails"].get(verb, [])
    if said:
        plan["fails"][verb] = said[1:]
        _write(cloud.folder / "plan.json", plan)
        if said[0] == "silent":
            return 0
        if said[0]:
            print(f"ERROR: (gcloud) {said[0]}", file=sys.stderr)
            return 1
    resources = cloud.resources
    if (lose := cloud.folder / "lose").exists():
        for resource in resources.values():
            if lose.read_text() == "PREEMPTED":
                resource["node"] = "PREEMPTED"
            else:
                resource["queue"] = [lose.read_text()]
        lose.unlink()
        cloud.kill_hosts()
    if argv[0] == "storage":
        bucket = cloud.folder / "bucket"
        found = sorted(bucket.glob(argv[2].removeprefix("gs://")))
        if not found:
            print("ERROR: One or more URLs matched no objects.", file=sys.stderr)
            return 1
        for path in found:
            print(f"gs://{path.relative_to(bucket)}" if verb == "ls" else path.read_text())
        return 0
    name = argv[5].partition(":")[0] if verb == "scp" else argv[4]
    if verb == "list":
        nodes = [(key, value.get("node", "READY")) for key, value in resources.items()]
        print(json.dumps([{"name": f"projects/p/nodes/{n}", "state": s} for n, s in nodes]))
        return 0
    if verb == "create":
        assert name not in resources
        kind = next(w.partition("=")[2] for w in argv if w.startswith("--accelerator-type="))
        resources[name] = {"queue": [*plan["queue"], "ACTIVE"], "kind": kind}
        cloud.save(resources)
        return 0
    if name not in resources:
        print(f"ERROR: NOT_FOUND: Resource '{name}' was not found", file=sys.stderr)
        return 1
    resource = resources[name]
    if verb == "describe":
        state = resource["queue"][0]
        after = {"SUSPENDING": ["SUSPENDED"]}.get(state, [state])
        resource["queue"] = resource["queue"][1:] or after
        spec = [{"node": {"acceleratorType": resource["kind"]}}]
        answer = {"state": {"state": state}, "tpu": {"nodeSpec": spec}}
        if state == "FAILED":
            answer["state"]["failedData"] = {"error": {"message": "no capacity"}}
        print(json.dumps(answer))
    elif verb == "delete":
        cloud.kill_hosts()
        del resources[name]
    else:
        assert resource["queue"] == ["ACTIVE"], resource
        every = "--node=all" in argv and "--worker=all" in argv
        for index in range(plan["hosts"] if every else 1):
            home = cloud.folder / "hosts" / f"{name}-{index}"
            home.mkdir(exist_ok=True)
            if verb == "scp":
                shutil.copy(argv[4], home / argv[5].partition(":")[2])
                continue
            tools = f"{cloud.folder}/host-bin:/usr/bin:/bin"
            words = ["bash", "-c", argv[argv.index("--command") + 1]]
            done = subprocess.run(
                words, cwd=home, env={"HOME": str(home), "PATH": tools}, check=False
            )
            if done.returncode:
                return done.returncode
    cloud.save(resources)
    return 0
