"""Waiting for runs that jobs of a cluster make: each end is told once, those of jobs that did not live to say so too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from testbed.index import Entry, write
from testbed.launcher.batch import ended, since
from testbed.launcher.slurm import Element, Silent, accounted, cancel, elements
from testbed.launcher.submitted import Submission
from testbed.launcher.task import Task
from testbed.launcher.turns import tried

SHORTEST, LONGEST = 3.0, 30.0
"""Seconds between two looks: the shorter after a run has ended, the longer where none did for a while."""
LATE, LATEST = 10.0, 60.0
"""Seconds after a job has failed, or has ended well, until which its nodes' entries may yet be seen on a shared file system."""
ON_ITS_WAY = 120.0
"""Seconds after a submission was written down until which it may yet reach Slurm."""
CANCELLED = 5.0
"""Seconds in which the ends of cancelled jobs are waited for; what ends later is seen when the command is given again."""


@dataclass(frozen=True)
class Awaited:
    """A run with the job that makes it, and the mark that its entry had when that was submitted."""

    task: Task
    submission: Submission
    place: int

    @property
    def job(self) -> tuple[str, int]:
        """What the job is called."""
        return self.submission.name, self.place

    @property
    def before(self) -> str:
        """The mark."""
        return self.submission.jobs[self.place][self.task.request.key]


@dataclass
class Waiting:
    """Runs that are waited for, by key; `own` are the submissions of this process, which alone it cancels."""

    home: Path
    said: Callable[[Task, Entry], None]
    open: dict[str, Awaited] = field(default_factory=dict)
    own: dict[str, Submission] = field(default_factory=dict)
    known: dict[tuple[str, int], Element] = field(default_factory=dict)
    over: dict[tuple[str, int], float] = field(default_factory=dict)

    def adopt(self, tasks: Sequence[Task], noted: Sequence[Submission]) -> None:
        """Wait for those of these tasks that earlier submissions are still to make; of what is over, forget the notes.

        Raises:
            Silent: Slurm does not say what is still there.
        """
        self.known = self._arrived(noted)
        by_key = {task.request.key: task for task in tasks}
        for submission in noted:
            places = [place for place in range(len(submission.jobs)) if self._lives((submission.name, place))]
            if not places:
                submission.forget(self.home)
            for place in places:
                for key in submission.jobs[place].keys() & by_key.keys():
                    self.open[key] = Awaited(by_key[key], submission, place)
        if self.open:
            print(f"{len(self.open)} runs were submitted before and are waiting or running: {self.numbers()}", flush=True)

    def _arrived(self, noted: Sequence[Submission]) -> dict[tuple[str, int], Element]:
        """What Slurm knows of these submissions, once none may still be on its way: whoever sent it may have been killed."""
        until, told = time.monotonic() + ON_ITS_WAY, False
        while True:
            known = elements([submission.name for submission in noted])
            there = {name for name, _ in known}
            new = [each for each in noted if each.name not in there and each.age(self.home) < ON_ITS_WAY]
            if not new or time.monotonic() > until:
                return known
            if not told:
                print(f"{new[0].name} was being submitted; waiting until Slurm knows it, {ON_ITS_WAY:g} s at most", flush=True)
            told = True
            time.sleep(SHORTEST)

    def arrays(self) -> dict[str, str]:
        """The number of the array that makes a run, by the run's key, where an earlier command has submitted it."""
        awaited = {key: each for key, each in self.open.items() if each.submission.name not in self.own}
        return {key: self.known[each.job].number.partition("_")[0] for key, each in awaited.items()}

    def add(self, submission: Submission, jobs: Sequence[Sequence[Task]]) -> None:
        """Wait for what is about to be submitted."""
        self.own[submission.name] = submission
        for place, job in enumerate(jobs):
            self.open |= {task.request.key: Awaited(task, submission, place) for task in job}

    def wait(self) -> None:
        """Until every run has ended."""
        pause, silent = SHORTEST, False
        while self.open:
            try:
                self._look()
                silent = False
            except Silent as error:
                if not silent:
                    print(f"Slurm does not answer, and is asked again until it does ({error})", flush=True)
                silent = True
            before = len(self.open)
            for key, awaited in list(self.open.items()):
                made = ended(awaited.task, awaited.before)
                if made is None and not silent and self._lost(awaited.job):
                    made = self._end_of(awaited)
                if made is not None:
                    del self.open[key]
                    self.said(awaited.task, made)
            pause = SHORTEST if len(self.open) < before else min(LONGEST, pause * 1.2)
            if self.open:
                time.sleep(pause)
        self._forget()

    def cancel(self) -> None:
        """Cancel the jobs of this process, wait until they have recorded what they were making, and tell their ends."""
        try:
            numbers = self.numbers(self.own)
            cancel(numbers.split())
            if numbers:
                print(f"cancelled: {numbers}", flush=True)
            for submission in self.own.values():  # now, for there may be no time for it later
                submission.forget(self.home)
            end = time.monotonic() + CANCELLED
            while self.numbers(self.own) and time.monotonic() < end:
                time.sleep(0.5)
        except Silent as error:
            print(f"could not cancel ({error}); say scancel --name={','.join(self.own)}", flush=True)
            return
        for awaited in list(self.open.values()):
            made = since(awaited.task, awaited.before)
            if made is not None:
                self.said(awaited.task, made)

    def numbers(self, of: Mapping[str, Submission] | None = None) -> str:
        """The jobs that are waiting or running, for people and for scancel: those of these submissions, or all.

        Raises:
            Silent: Slurm does not answer.
        """
        names = of if of is not None else {awaited.submission.name for awaited in self.open.values()}
        live = [element for element in elements(list(names)).values() if element.live]
        return " ".join(sorted({element.number.partition("_")[0] for element in live}, key=int))

    def _look(self) -> None:
        """What Slurm knows now, and since when it knows of a job no more, or that it is over."""
        found = elements(sorted({awaited.submission.name for awaited in self.open.values()}))
        self.known |= found
        for job in {awaited.job for awaited in self.open.values()}:
            if job in found and found[job].live:
                self.over.pop(job, None)
            else:
                self.over.setdefault(job, time.monotonic())

    def _lives(self, job: tuple[str, int]) -> bool:
        return job in self.known and self.known[job].live

    def _lost(self, job: tuple[str, int]) -> bool:
        """Whether this job is over for long enough that it will say nothing any more."""
        if job not in self.over:
            return False
        known = self.known.get(job)
        failed = known is not None and not known.live and known.state != "COMPLETED"
        return time.monotonic() - self.over[job] > (LATE if failed else LATEST)

    def _end_of(self, awaited: Awaited) -> Entry | None:
        """What stands in the index of a run that was interrupted, or else why it has no end of its own.

        None where another driver is making it, which will write one.
        """
        with tried(awaited.task) as mine:
            return self._written(awaited) if mine else None

    def _written(self, awaited: Awaited) -> Entry:
        made = since(awaited.task, awaited.before)
        if made is not None:
            return made
        known = self.known.get(awaited.job)
        state = (accounted(known.number) or known.state) if known else "nobody knows what"
        number = known.number if known else awaited.submission.name
        log = awaited.submission.folder(self.home) / f"{number}_0_log.err"
        made = Entry("killed", f"its job {number} ended as {state}", log=str(log), code=1)
        write(Path(awaited.task.outputs), awaited.task.request.key, made)
        return made

    def _forget(self) -> None:
        """Forget what is over; a job that has said all and is just leaving is forgotten next time."""
        try:
            found = elements(list(self.own))
        except Silent:  # nothing hangs on it
            return
        for name, submission in self.own.items():
            if not any(found[job].live for job in found if job[0] == name):
                submission.forget(self.home)
