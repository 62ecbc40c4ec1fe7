"""Launching against a stand-in for Google Cloud: what is run, restarted, given up and torn down."""

import shlex
import time

import pytest
from stand_in import StandIn
from tiny_run import write_experiment

from gpt_jax.cli import main
from gpt_jax.launch import cloud as cloud_module
from gpt_jax.launch import loop

RUN = "gs://bkt/runs/x"


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A cloud, this machine's home beside it, and gcloud on the PATH."""
    stand_in = StandIn(tmp_path / "cloud")
    monkeypatch.setenv("PATH", str(stand_in.bin))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(loop, "sleep", lambda _: time.sleep(0.05))
    yield stand_in
    stand_in.kill_hosts()


@pytest.fixture
def said(tmp_path, capsys):
    """`said(words...)`: status, stdout and stderr of `gpt-jax launch` of a tiny experiment."""
    experiment = write_experiment(tmp_path / "tiny")

    def run(*words, target="v5p-16", workdir=RUN):
        place = ["--target", target, "--workdir", workdir, "--project", "p", "--zone", "us-east5-a"]
        argv = ["launch", str(experiment), *place, "--name", "x", "--data.files", "gs://bkt/*.txt"]
        try:
            status = main([*argv, *words])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


def verbs(cloud):
    """The lines by their verbs: create, ssh, ..."""
    return [line[2] if line[1] == "storage" else line[4] for line in cloud.lines]


def distinct(lines):
    """Each line once, at its first place."""
    return list(map(shlex.split, dict.fromkeys(map(shlex.join, lines))))


def test_dry_run_prints_the_lines_that_a_run_runs(cloud, said):
    """In the order in which they are first run, and nothing more; and a dry run runs none."""
    cloud.plan("save=4 hang", "save=8 finish")
    words = ["--spot", "--train.seed", "7"]
    status, out, _ = said(*words, "--dry-run")
    assert status == 0
    assert cloud.lines == []
    printed = [shlex.split(line) for line in out.splitlines() if not line.startswith("#")]
    cloud.plan("save=4 finish")
    status, out, err = said(*words)
    assert status == 0, out + err
    assert distinct(cloud.lines) == printed
    assert {line[4] for line in printed if line[1] == "compute"} == {
        *("describe", "create", "list", "scp", "ssh", "delete")
    }


def test_a_run_from_the_request_to_its_end(cloud, said):
    """Waited for, installed on both hosts, started there with the given words, torn down."""
    cloud.plan("save=4 finish")
    status, out, err = said("--train.seed", "7", "--data.jsonl-field", "it's $HOME; `ls`")
    assert (status, err) == (0, "")
    told = ["--data.files", "gs://bkt/*.txt", "--train.seed", "7"]
    words = ["train", "launched/tiny.py", "--workdir", RUN, *told]
    words += ["--data.jsonl-field", "it's $HOME; `ls`"]
    for host in (0, 1):
        assert cloud.starts(host) == [["gpt-jax", *words]]
    assert cloud.resources == {}
    assert verbs(cloud)[-1] == "delete"
    for text in ("WAITING_FOR_RESOURCES", "PROVISIONING", "has ended", "given back"):
        assert text in out


@pytest.mark.parametrize("state", ["SUSPENDED", "SUSPENDING", "FAILED", "PREEMPTED"])
def test_preempted_twice(cloud, said, state):
    """However it shows: deleted, asked for again, and the same command in the same folder."""
    cloud.plan(f"save=4 lose={state}", f"save=8 lose={state}", "save=12 finish")
    status, out, _ = said("--spot")
    assert status == 0, out
    assert state in out
    first, *others = cloud.starts()
    assert len(others) == 2
    assert others == [first, first]
    assert verbs(cloud).count("create") == verbs(cloud).count("delete") == 3
    assert cloud.resources == {}
    assert "going on from step 8" in out


def test_a_refusal_after_a_preemption_is_not_final(cloud, said):
    """What was given once is asked for again: the quota may still count what was taken away."""
    fails = {"create": ["", "Quota exceeded", "Quota exceeded"]}
    cloud.plan("save=4 lose=SUSPENDED", "save=8 finish", fails=fails)
    status, out, _ = said()
    assert status == 0, out
    assert "trouble 2 of 40: ERROR: (gcloud) Quota exceeded" in out
    assert len(cloud.starts()) == 2


def test_preempted_without_end(cloud, said):
    """What never saves is given up after so many restarts, though each has its own cause."""
    cloud.plan("save=4 lose=SUSPENDED", "lose=SUSPENDED")
    status, _, err = said("--max-restarts", "2")
    assert status == 1
    assert "x is SUSPENDED" in err or "request is SUSPENDED" in err
    assert "3 times without a new checkpoint" in err
    assert len(cloud.starts()) == 4  # the first saved; three did not
    assert cloud.resources == {}


@pytest.mark.parametrize(("target", "hosts"), [("v5p-8", 1), ("v5p-16", 2)])
def test_a_failing_training_ends(cloud, said, target, hosts):
    """With the hosts' logs, the status, and the machines given back.

    One host ends at once; of several, which fail when they lose each other, the second time.
    """
    cloud.plan("exit=1", hosts=hosts)
    status, out, err = said(target=target)
    assert status == 1
    told = ["1 host ended with 1, without", "2 hosts ended with 1, 2 times without"][hosts - 1]
    assert f"training failed: {told} a new checkpoint" in err
    for host in range(hosts):
        assert f"error: host {host} start exit=1" in out
    assert len(cloud.starts()) == hosts
    assert cloud.resources == {}


def test_a_failing_training_that_had_come_further(cloud, said):
    """Is tried once more, and ends where it fails again."""
    cloud.plan("save=4 exit=1", "exit=1", hosts=1)
    status, out, _ = said(target="v5p-8")
    assert status == 1
    assert len(cloud.starts()) == 2
    assert "going on from step 4" in out


@pytest.mark.parametrize("end", ["exit=75", "kill=1 exit=1", "stopped exit=0"])
def test_what_starts_again_on_the_same_machines(cloud, said, end):
    """The watchdog, a host whose process was killed, a stop by a signal: no failure of its own."""
    cloud.plan(end, end, "save=4 finish")
    status, out, _ = said()
    assert status == 0, out
    assert len(cloud.starts()) == 3
    assert verbs(cloud).count("create") == 1


def test_a_stuck_training_is_not_started_for_ever(cloud, said):
    cloud.plan("exit=75")
    status, _, err = said("--max-restarts", "1")
    assert status == 1
    assert "ended early: 2 hosts ended with 75, 2 times without a new checkpoint" in err
    assert len(cloud.starts()) == 2


def test_sessions_that_fail_now_and_then(cloud, said):
    """Each is tried again in the next round."""
    fails = {"ssh": ["", "Connection refused", "", "", "Connection reset"], "scp": ["255"]}
    cloud.plan("save=4 finish", fails=fails)
    status, out, _ = said()
    assert status == 0, out
    assert "trouble 2 of 40: ERROR: (gcloud) Connection refused" in out
    assert cloud.resources == {}


def test_a_host_that_is_left_out(cloud, said):
    """gcloud says nothing of one that it cannot reach: what every host must do is done again."""
    cloud.plan("save=4 finish", fails={"ssh": ["", "silent", "", "", "silent"]})
    status, out, _ = said()
    assert status == 0, out
    assert out.count("0 of 2 hosts answer") == 2
    assert [len(cloud.starts(host)) for host in (0, 1)] == [1, 1]


@pytest.fixture
def impatient(monkeypatch):
    """Three rounds of trouble are too many."""
    monkeypatch.setattr(loop, "MAX_TROUBLES", 3)


def test_machines_that_cannot_be_reached(cloud, said, impatient):
    """Before anything runs there they are given back."""
    cloud.plan("finish", fails={"scp": ["Permission denied"] * 100})
    status, _, err = said()
    assert status == 1
    assert "gcloud failed 3 times in a row; the last time: ERROR: (gcloud) Permission" in err
    assert cloud.resources == {}


def test_hosts_that_fall_silent(cloud, said, impatient):
    """The bucket shows that training goes on; when it no longer does, the machines are lost."""
    # Sessions: a look before the start, install, start, and a look that works; then six that fail.
    fails = {"ssh": [""] * 4 + ["Connection timed out"] * 6}
    cloud.plan("save=4 hang", "save=8 finish", fails=fails)
    status, out, _ = said()
    assert status == 0, out
    assert "out of reach, and training goes on: it has saved step 4" in out
    assert "the hosts are out of reach" in out
    assert len(cloud.starts()) == verbs(cloud).count("create") == 2


def test_google_cloud_out_of_reach(cloud, said, impatient):
    """Training is left, and the lines to look and to end it are printed."""
    cloud.plan(
        "hang", fails={"describe": [""] * 5 + ["No network"] * 100, "ls": ["", "No network"]}
    )
    status, _, err = said()
    assert status == 1
    assert "Training goes on by itself" in err
    assert "queued-resources delete x" in err
    assert list(cloud.resources) == ["x"]


@pytest.mark.parametrize("made", [False, True])
def test_a_quota_error(cloud, said, monkeypatch, made):
    """One paragraph with Google's words, and nothing is left, made before it was refused or not."""
    message = "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepod' has been exceeded. Limit: 0"
    cloud.plan("finish", fails={"create": [message]})
    if made:
        run = cloud_module.Cloud.run

        def refuse(self, line):
            if "create" in line:
                cloud.plan("finish")
                run(self, line)
                cloud.plan("finish", fails={"create": [message]})
            return run(self, line)

        monkeypatch.setattr(cloud_module.Cloud, "run", refuse)
    status, _, err = said()
    assert status == 1
    assert message in err
    assert "nothing is left behind" in err
    assert err.count("\n") == 1
    assert cloud.resources == {}


def test_a_request_that_is_never_filled(cloud, said):
    """No capacity until --valid-until: said, deleted, not asked for again."""
    cloud.plan("finish", queue=["WAITING_FOR_RESOURCES", "FAILED"])
    status, _, err = said("--valid-until", "6h")
    assert status == 1
    assert "the request is FAILED no capacity" in err
    assert cloud.resources == {}
    assert "--valid-until-duration=6h" in next(line for line in cloud.lines if "create" in line)


def interrupt(monkeypatch, rounds):
    """Ctrl-C in the sleep after so many rounds."""
    left = [None] * rounds

    def sleep(_):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        time.sleep(0.05)

    monkeypatch.setattr(loop, "sleep", sleep)


def test_ctrl_c_leaves_the_run_and_the_same_command_goes_on(cloud, said, monkeypatch):
    """It prints how to watch and to end it; the second launch starts nothing anew."""
    cloud.plan("save=4 hang", "save=8 finish")
    interrupt(monkeypatch, 6)
    status, out, _ = said()
    assert status == 130
    assert "Training goes on by itself" in out
    assert "\nwatch   gcloud compute tpus queued-resources ssh x" in out
    assert "\nend     gcloud compute tpus queued-resources delete x" in out
    assert list(cloud.resources) == ["x"]
    interrupt(monkeypatch, 2)
    assert said()[0] == 130
    assert len(cloud.starts()) == 1
    assert verbs(cloud).count("create") == verbs(cloud).count("scp") == 1
    # Other options would be another run.
    status, out, err = said("--train.seed", "8")
    assert status == 1, out
    assert "x trains with other options" in err
    assert "is there already, as v5p-16" in said(target="v5p-8")[2]
    # It ends while nobody looks.
    cloud.plan("save=4 hang", "save=8 finish")
    (cloud.folder / "bucket" / "bkt" / "runs" / "x" / "summary.json").write_text(
        '{"stopped_by": null}'
    )
    assert said()[0] == 0
    assert cloud.resources == {}


def test_ctrl_c_in_the_queue_says_that_nothing_trains(cloud, said, monkeypatch):
    cloud.plan("finish")
    interrupt(monkeypatch, 1)
    status, out, _ = said()
    assert status == 130
    assert "Nothing trains; the request, and what it may bring, is charged" in out


def test_keep(cloud, said):
    """The machines stay, and the line that ends them is printed."""
    cloud.plan("save=4 finish")
    status, out, _ = said("--keep")
    assert status == 0
    assert list(cloud.resources) == ["x"]
    assert "queued-resources delete x" in out


def test_a_run_that_has_ended_needs_no_machines(cloud, said):
    cloud.plan("save=4 finish")
    assert said()[0] == said()[0] == 0
    assert verbs(cloud).count("create") == 1


def test_several_slices(cloud, said):
    """One request with a count, and every host of every slice."""
    cloud.plan("save=4 finish", hosts=4)
    status, out, _ = said("--slices", "2", "--mesh.slice", "2")
    assert status == 0, out
    create = next(line for line in cloud.lines if "create" in line)
    assert create[-2:] == ["--node-count=2", "--node-prefix=x"]
    assert all(len(cloud.starts(host)) == 1 for host in range(4))


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ({"workdir": "runs/x"}, "the 2 hosts of this slice have a disk each. `gcloud storage"),
        ({"workdir": "runs/x", "target": "v5e-8"}, "the machine's disk is deleted with it"),
        ({"workdir": "gs://bkt"}, "--workdir must be a folder in a bucket"),
        ({"workdir": "gs://BKT/runs/x"}, "--workdir must be a folder in a bucket"),
        ({"target": "v5q-16"}, "there is no 'v5q-16': the nearest are v5p-16"),
        (["--slices", "2"], "it is 1 for --slices 2: give --mesh.slice 2."),
        (["--mesh.data", "4"], "must use all chips, 8 in 1 x v5p-16, and it is data 4"),
        (["--mesh.fsdp", "3"], "must use all chips, 8 in 1 x v5p-16, and it is data -1 x fsdp 3"),
        (["--data.files", "x/*.txt"], "data.files is 'x/*.txt' on this machine: `gcloud storage"),
        (
            ["--data.corpus", "c/x", "--data.files", "--data.tokenizer", "sentencepiece"],
            "data.corpus is 'c/x' on this machine: `gcloud",
        ),
        (["--init-from", "runs/y"], "init_from is 'runs/y' on this machine: `gcloud storage"),
        (["--data.tokenizer", "a/b.model"], "give --data.tokenizer gs://BUCKET/data/..."),
        (["--name", "X_1"], "--name must be of lower-case letters, digits and hyphens"),
        (["--zone", "us-east5"], "--zone is a zone such as us-east5-a, and it is 'us-east5'"),
        (["--slices", "0"], "--slices must be positive, and it is 0."),
        (["--max-restarts", "-1"], "--max-restarts must not be negative: -1."),
    ],
)
def test_what_is_refused_before_anything_is_run(cloud, said, words, rule):
    """One paragraph, with --dry-run too; gcloud is not called."""
    keywords = words if isinstance(words, dict) else {}
    status, out, err = said(*([] if keywords else words), "--dry-run", **keywords)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert rule in err
    assert err.count("\n") == 1
    assert cloud.lines == []


def test_without_gcloud(cloud, said, monkeypatch):
    monkeypatch.setenv("PATH", str(cloud.folder))
    status, _, err = said()
    assert status == 1
    assert "there is none on the PATH: install the Google Cloud CLI" in err


def test_gcloud_that_is_not_logged_in(cloud, said):
    """The first thing that is asked tells, and is not asked again."""
    cloud.plan("finish", fails={"cat": ["You do not currently have an active account selected."]})
    status, _, err = said()
    assert status == 1
    assert "You do not currently have an active account selected." in err
    assert len(cloud.lines) == 1


def test_options_that_are_missing(capsys, tmp_path):
    experiment = write_experiment(tmp_path / "tiny")
    assert main(["launch", str(experiment), "--target", "v5e-16"]) == 1
    assert "launch needs to be told --workdir, --project, --zone" in capsys.readouterr().err
    assert main(["launch", str(tmp_path / "none.py")]) == 1
    with pytest.raises(SystemExit):
        main(["launch", str(experiment), "--help"])
    assert "--model.num-layers" in capsys.readouterr().out
