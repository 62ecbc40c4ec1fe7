"""From a request for machines to the end of the run, across everything that takes them away."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from time import sleep, strftime
from typing import NoReturn

from gpt_jax.config import InputError, require
from gpt_jax.launch import commands
from gpt_jax.launch.cloud import Cloud, CloudError, Host, Request
from gpt_jax.launch.job import Job

WATCHDOG = 75
"""Exit status of a training that a stuck step has ended, which asks to be started again."""
MAX_TROUBLES = 40
"""Rounds in a row in which gcloud may fail, or hosts may be silent."""
PATIENCE = 3
"""Rounds between the end of training and a verdict: a machine that is taken away ends training on
the others before Cloud TPU says so."""

Say = Callable[[str], None]


def launch(job: Job, poll: float = 30.0, say: Say = print) -> None:
    """Train on rented slices until the run has ended, and give them back.

    poll: seconds between looks. Everything is asked anew in every round, so that the same command
    goes on where an earlier one was ended. Raises InputError where the machines are refused, and
    where training fails or is restarted too often without a new checkpoint.
    """
    rounds = _Rounds(job, Cloud(job), say)
    try:
        while not rounds.once():
            sleep(poll)
    except KeyboardInterrupt:
        say(f"\nleft as it is. {rounds.where_it_stands()}")
        raise


class _Rounds:
    """What one launch knows from round to round."""

    def __init__(self, job: Job, cloud: Cloud, say: Say) -> None:
        self.job, self.cloud = job, cloud
        self._say, self._said = say, ""
        self._checkpoint: int | None = None
        """The newest when training was last started; None before the first round."""
        self._fruitless = 0
        """Restarts since there last was a new checkpoint."""
        self._was_active = False
        self._started = False
        """Whether training was started, or found running, on the machines of now."""
        self._patience = PATIENCE
        self._troubles = 0

    def say(self, text: str) -> None:
        """Tell what is new."""
        if text and text != self._said:
            self._say(f"{strftime('%H:%M:%S')}  {text}")
        self._said = text

    def once(self) -> bool:
        """One round; returns whether the run has ended."""
        try:
            ended = self._look()
        except CloudError as error:
            # Nothing is known to work before the first round is through.
            require(
                self._checkpoint is not None,
                f"gcloud must be able to reach the project and the bucket, and it says: {error} "
                "(--dry-run prints the lines that set both up).",
            )
            self._troubles += 1
            self.say(f"trouble {self._troubles} of {MAX_TROUBLES}: {error}")
            if self._troubles >= MAX_TROUBLES:
                self._out_of_reach(str(error))
            return False
        self._troubles = 0
        return ended

    def _look(self) -> bool:
        if self._checkpoint is None:
            if self.cloud.has_ended():
                return self._end()
            self._checkpoint = self.cloud.newest_checkpoint()
        request = self.cloud.request()
        if request is None:
            self._create()
        elif request.state in ("FAILED", "SUSPENDED"):
            self._machines_lost(f"the request is {request.state} {request.reason}".rstrip())
        elif request.state != "ACTIVE":
            self.say(f"the request is {request.state}")
        elif lost := self.cloud.lost():
            self._machines_lost(", ".join(lost))
        else:
            return self._train(request)
        return False

    def _create(self) -> None:
        """Ask for machines; the first time a refusal is final."""
        job = self.job
        self.say(f"asking for {job.slices} x {job.slice.name} ({job.capacity})")
        try:
            self.cloud.run(commands.create(job))
        except CloudError as error:
            # It may have been refused after it was made.
            if self.cloud.request() is not None:
                self.cloud.run(commands.delete(job))
            if self._was_active:
                raise
            raise InputError(
                f"the machines were refused, and nothing is left behind: {error} (quotas: "
                "console.cloud.google.com/iam-admin/quotas, service Cloud TPU API)."
            ) from None

    def _machines_lost(self, why: str) -> None:
        """Preempted, failed or expired: what is left is deleted, and the next round asks anew."""
        self.say(why)
        self.cloud.run(commands.delete(self.job))
        self._started, self._patience = False, PATIENCE
        if not self._was_active:
            raise InputError(
                f"no machines were given: {why}. The request was deleted; ask again later, in "
                "another zone, for a smaller slice or for other capacity (--spot, --reserved)."
            )
        self._count(f"machines were lost ({why})", self.job.max_restarts)

    def _train(self, request: Request) -> bool:
        """A round with machines: start training, or see how it does."""
        job, self._was_active = self.job, True
        found, wanted = request.accelerator_type, job.slice.accelerator_type
        require(
            found in ("", wanted),
            f"{job.name} is there already, as {found} and not as {wanted}: give another --name, or "
            f"end it: {shlex.join(commands.delete(job))}",
        )
        first, last_line = self.cloud.first_host()
        if first and first.word == "running":
            require(
                first.digest == job.digest,
                f"{job.name} trains with other options than those given: give another --name, or "
                f"end it: {shlex.join(commands.delete(job))}",
            )
            self._started, self._patience = True, PATIENCE
            self.say(last_line)
            return False
        if not self._started:
            # New machines, or what an earlier launch left there.
            if first and first.exit == 0 and self.cloud.has_ended():
                return self._end()
            self._start()
            return False
        hosts = self.cloud.all_hosts(commands.ask(job))
        if all(host.exit == 0 for host in hosts) and self.cloud.has_ended():
            return self._end()
        self.say(f"training is not running: {_states(hosts)}")
        self._patience -= 1
        if self._patience == 0:
            self._judge(hosts)
            self._start()
        return False

    def _start(self) -> None:
        """The code, the package and the command, to every host; what still runs is stopped."""
        job = self.job
        self._started, self._patience = False, PATIENCE
        self.say(f"copying and installing, on {job.hosts} host{'s' * (job.hosts > 1)}")
        self.cloud.run(commands.copy(job))
        self.cloud.all_hosts(commands.install(job))
        self.say(f"starting {shlex.join(job.train)}")
        self.cloud.all_hosts(commands.start(job))
        self._started = True

    def _judge(self, hosts: list[Host]) -> None:
        """Return if training is to be started again on the machines that are there."""
        job, states = self.job, _states(hosts)
        # Not by a signal (128 and more), by the watchdog, or with a host that does not know.
        codes = [host.exit or 0 for host in hosts]
        failed = all(0 < code < 128 and code != WATCHDOG for code in codes)
        if failed:
            # It would fail again, unless it has come further since. Several hosts get another try:
            # when one loses the others, all of them fail.
            self._count(f"training failed: {states}", min(job.hosts - 1, 1, job.max_restarts))
        else:
            self._count(f"training ended early: {states}", job.max_restarts)

    def _count(self, why: str, allowed: int) -> None:
        """Another restart; give up after `allowed` without a new checkpoint."""
        newest, before = self.cloud.newest_checkpoint(), self._checkpoint
        assert before is not None
        self._fruitless = 0 if newest > before else self._fruitless + 1
        self._checkpoint = max(newest, before)
        if self._fruitless > allowed:
            again = f" {self._fruitless} times" if self._fruitless > 1 else ""
            self._give_up(f"{why},{again} without a new checkpoint")
        self.say(f"{why}: going on from {f'step {newest}' if newest >= 0 else 'the start'}")

    def _out_of_reach(self, error: str) -> None:
        """Hosts that are silent for long: training that still saves is left, other is lost."""
        why = f"gcloud failed {self._troubles} times in a row; the last time: {error}"
        try:
            newest, before = self.cloud.newest_checkpoint(), self._checkpoint
            if self._started and before is not None and newest > before:
                self.say(f"out of reach, and training goes on: it has saved step {newest}")
                self._checkpoint = newest
            elif self._started:
                self._machines_lost(f"the hosts are out of reach: {error}")
            else:
                self._give_up(why)
        except CloudError:
            # All of Google Cloud is out of reach.
            raise InputError(f"{why}. {self.where_it_stands()}") from None
        self._troubles = 0

    def _give_up(self, why: str) -> NoReturn:
        """Show the logs, give the machines back, and say why."""
        if self._started and (log := self.cloud.log()):
            self._say(log)
        if self.job.keep:
            raise InputError(f"{why}. {self.where_it_stands()}")
        try:
            if self.cloud.request() is not None:
                self.cloud.run(commands.delete(self.job))
        except CloudError as error:
            raise InputError(f"{why}. {self.where_it_stands()}\n({error})") from None
        raise InputError(
            f"{why}. The machines were given back; the run is in {self.job.workdir}, and the same "
            "command goes on with it."
        )

    def _end(self) -> bool:
        """The run is complete: give the machines back, if there are any."""
        self.say(f"the run in {self.job.workdir} has ended")
        if self.cloud.request() is not None:
            if self.job.keep:
                self._say(self.where_it_stands())
            else:
                self.cloud.run(commands.delete(self.job))
                self.say("the machines were given back")
        return True

    def where_it_stands(self) -> str:
        """What goes on without us, and the lines for a person."""
        if self._started:
            state = "Training goes on by itself, and nothing restarts it"
        else:
            state = "Nothing trains; the request, and what it may bring, is charged to the project"
        return (
            f"{state} until the same command is given again.\n"
            f"watch   {shlex.join(commands.follow(self.job))}\n"
            f"end     {shlex.join(commands.delete(self.job))}"
        )


def _states(hosts: list[Host]) -> str:
    """Hosts by what they say: 3 hosts ended with 0, 1 host is gone."""
    words = [
        f"ended with {host.exit}" if host.word == "ended" else f"{host.word}" for host in hosts
    ]
    counts = {word: words.count(word) for word in words}
    return ", ".join(f"{n} host{'s' * (n > 1)} {word}" for word, n in counts.items())
