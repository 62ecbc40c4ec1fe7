"""Settings of the machine: ours are defaults, the user's win."""

import os

import pytest

from gpt_jax.parallel import platform


@pytest.mark.parametrize(
    ("ours", "users", "expected"),
    [
        ("--a=1 --b=2", "--a=0", "--a=1 --b=2 --a=0"),
        ("--a=1", None, "--a=1"),
        ("", "--a=0 --c", "--a=0 --c"),
    ],
)
def test_our_flags_come_before_the_users(monkeypatch, ours, users, expected):
    """XLA takes the last of two equal flags, so that what the user says stands."""
    monkeypatch.setattr(platform, "CPU_XLA_FLAGS", ours)
    monkeypatch.setenv("XLA_FLAGS", "to be put back")
    if users is None:
        monkeypatch.delenv("XLA_FLAGS")
    else:
        monkeypatch.setenv("XLA_FLAGS", users)
    platform.configure()
    assert os.environ["XLA_FLAGS"] == expected


def test_the_users_flags_stay_with_the_flags_that_we_ship(monkeypatch):
    """Whatever CPU_XLA_FLAGS is, what the user set is the end of the line."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_users_own=1")
    platform.configure()
    assert os.environ["XLA_FLAGS"].endswith("--xla_users_own=1")
    assert os.environ["XLA_FLAGS"].startswith(platform.CPU_XLA_FLAGS)


def test_no_flags_at_all_leave_the_environment_alone(monkeypatch):
    """An empty XLA_FLAGS is not set where there was none."""
    monkeypatch.setattr(platform, "CPU_XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", "to be put back")
    monkeypatch.delenv("XLA_FLAGS")
    platform.configure()
    assert "XLA_FLAGS" not in os.environ
