"""A user's path, on this machine and in a bucket: one rule for both."""

import importlib.util
import os
import time
from pathlib import Path

import pytest

import gpt_jax
from gpt_jax.cli import main
from gpt_jax.config import InputError
from gpt_jax.paths import find, in_bucket, user_path

NAMES = [
    *("a.txt", "b.txt.gz", "deep/a.txt", "deep/er/c.txt", "deep/er/.secret/c.txt"),
    *(".hidden.txt", "deep/.hidden.txt", "x1.txt", "x2.txt", "x/1.txt", "q[1].txt"),
]


@pytest.mark.parametrize(
    "pattern",
    [
        *("*.txt", "**/*.txt", "**/*", "*/*.txt", "x?.txt", "x[12].txt", "**/er/*", "*.gz"),
        *("a.txt", "deep/er/c.txt", "deep", "nothing/*", "*", ".*", "deep/.*", "deep/**/c.txt"),
        "q[[]1].txt",
    ],
)
def test_a_glob_finds_in_a_bucket_what_it_finds_here(pattern, tmp_path, server):
    """The same names under the same root, in a folder of this machine and in a bucket."""
    for name in NAMES:
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        server.put("bucket-of-tests", f"texts/{name}", name.encode(), {})
    found = []
    for top in (str(tmp_path / "texts"), "gs://bucket-of-tests/texts"):
        root, files = find(f"{top}/{pattern}")
        assert all(
            path.read_text() == path.relative_to(user_path(top)).as_posix() for path in files
        )
        names = sorted(path.relative_to(root).as_posix() for path in files)
        found.append((str(root).removeprefix(top), names))
        assert all(said.size == len(path.read_text()) for path, said in files.items())
        assert all(said.version for said in files.values())
    assert found[0] == found[1]
    assert found[0][1] or pattern in ("deep", "nothing/*")


def test_a_file_of_this_machine_has_another_version_after_any_ordinary_change(tmp_path):
    """Text of the same length, its old time given back, a file put in its place."""
    path = tmp_path / "x.txt"

    def version() -> str:
        time.sleep(0.02)  # the clock of a file system ticks every 4 ms or so
        return find(str(path))[1][path].version

    path.write_text("one")
    versions, at = [version()], path.stat()
    path.write_text("two")
    versions.append(version())
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))
    versions.append(version())
    (tmp_path / "y.txt").write_text("one")
    os.replace(tmp_path / "y.txt", path)
    versions.append(version())
    assert len(set(versions)) == 4
    assert version() == versions[-1]


def test_a_version_is_of_one_content(server):
    """Another content gives another version, and so does the same content, written again."""
    versions = []
    for content in (b"one", b"two", b"two"):
        server.put("bucket-of-tests", "x.txt", content, {})
        versions += find("gs://bucket-of-tests/x.txt")[1].values()
    assert len(set(versions)) == 3
    assert find("gs://bucket-of-tests/x.*")[1] == find("gs://bucket-of-tests/x.txt")[1]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a/b", "a/b"),
        ("~/a", "/root-of/home/a"),
        ("gs://bucket-1/a/b", "gs://bucket-1/a/b"),
        ("gs://bucket-1/a/", "gs://bucket-1/a"),
        ("gs://bucket-1", "gs://bucket-1"),
        (Path("gs://bucket-1/a"), "gs://bucket-1/a"),
    ],
)
def test_what_a_user_writes(text, path, monkeypatch):
    pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install -e '.[gcs]'")
    monkeypatch.setenv("HOME", "/root-of/home")
    assert str(user_path(text)) == path
    assert in_bucket(user_path(text)) == path.startswith("gs:")


@pytest.mark.parametrize("text", ["gs://", "gs:///a", "gs://UPPER/a", "gs://a b/c", "gs:/"])
def test_a_name_that_no_bucket_has(text):
    with pytest.raises(InputError, match=r"a path in a bucket is gs://BUCKET/NAME, and 'gs:"):
        user_path(text)


def test_without_gcsfs(monkeypatch, capsys):
    """One paragraph that names the extra, from whichever option it came."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gcsfs" else found(name)
    )
    for command in (["generate", "gs://bucket-1/run"], ["train", "gs://bucket-1/run"]):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: gs://bucket-1/run is in a bucket, and reading those needs ")
        assert "pip install 'gpt_jax[gcs]'" in error
        assert error.count("\n") == 1


def test_a_bucket_that_is_not_there(server, tmp_path, capsys):
    """The service's own words, whatever was asked of it: text, a run to read, one to write."""
    (tmp_path / "x.txt").write_text("text")
    train = ["train", "experiments/local_text.py", "--workdir", str(tmp_path / "run")]
    train += ["--data.files", str(tmp_path / "x.txt"), "--data.cache-dir", str(tmp_path / "cache")]
    for command in (
        [*train, "--workdir", "gs://no-such-bucket/run"],
        [*train, "--data.cache-dir", "gs://no-such-bucket/cache"],
        [*train, "--data.files", "gs://no-such-bucket/x.txt"],
        ["generate", "gs://no-such-bucket/run"],
    ):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert "no-such-bucket" in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    with pytest.raises(InputError, match="no-such-bucket"):
        gpt_jax.load("gs://no-such-bucket/run")


def test_what_is_made_on_this_machine_alone(server, tmp_path, capsys):
    assert main(["convert", str(tmp_path), "gs://bucket-of-tests/run"]) == 1
    assert "gs://bucket-of-tests/run is in a bucket: name such a folder" in capsys.readouterr().err
