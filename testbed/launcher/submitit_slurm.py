"""Runs as jobs of a Slurm cluster, through submitit: an array of jobs for each stage, victims before what shares them.

The driver submits and waits; what became of a run stands in the index, which the jobs write themselves. So jobs outlive their
driver, and a driver that is started again waits for what is still queued or running.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from testbed.index import Entry, mark
from testbed.launcher.batch import Batch
from testbed.launcher.cluster import Cluster
from testbed.launcher.interruption import terminable
from testbed.launcher.slurm import Silent, cluster_facts, outside_a_job, require_slurm
from testbed.launcher.stages import stages
from testbed.launcher.submitted import earlier, named
from testbed.launcher.task import Task
from testbed.launcher.waiting import Waiting
from testbed.lock import lock
from testbed.words import Refused


def submitit_slurm(
    tasks: Sequence[Task],
    after: Mapping[str, Sequence[str]],
    jobs: int,
    said: Callable[[Task, Entry], None],
    *,
    cluster: Cluster,
) -> None:
    """Run the tasks in jobs, at most `jobs` of an array at once; `said` is told of each end.

    Ctrl-C cancels what was submitted here, and so does Slurm where it refuses the rest. Whatever else ends this process may be
    somebody logging out, or a disk that is full just now, and leaves jobs alone.

    Raises:
        Refused: there is no Slurm here, it does not answer, or it takes no such jobs; what it took before is cancelled.
        KeyboardInterrupt, Terminated: this process was told to end.
    """
    require_slurm()
    home = Path(tasks[0].outputs) / "benchmark" / tasks[0].group / "slurm"
    home.mkdir(parents=True, exist_ok=True)
    waiting = Waiting(home, said)
    with terminable():
        try:
            # Of two drivers that start at once, one submits and the other finds it queued.
            with _ending(waiting, KeyboardInterrupt, Refused, Silent), lock(home):
                name, largest = cluster_facts()
                waiting.adopt(tasks, earlier(home, name))
                fresh = [task for task in tasks if task.request.key not in waiting.open]
                _Submitter(waiting, cluster, after, jobs, name, largest).submit(fresh)
        except Silent as error:
            raise Refused(f"launcher=submitit_slurm: {error}; try again once Slurm answers (see sinfo)", 4) from error
        with _ending(waiting, KeyboardInterrupt):
            waiting.wait()


@contextmanager
def _ending(waiting: Waiting, *cancelling: type[BaseException]) -> Iterator[None]:
    """What of these is raised inside cancels the jobs of this process; all else leaves them alone, and says so."""
    try:
        yield
    except cancelling:
        waiting.cancel()
        raise
    except BaseException:
        if waiting.open:
            with suppress(OSError):  # nobody may be there to read it
                print(
                    "jobs that are queued or running go on; the same command waits for them, scancel ends them", file=sys.stderr
                )
        raise


class _Submitter(NamedTuple):
    """How jobs are submitted: what each gets, and how large an array may be on this cluster."""

    waiting: Waiting
    cluster: Cluster
    after: Mapping[str, Sequence[str]]
    jobs: int
    name: str
    largest: int

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue all stages at once; Slurm itself holds back those that come after others.

        Raises:
            Refused: Slurm does not take them.
        """
        numbers, adopted = list[list[str]](), self.waiting.arrays()
        words = tuple({word for task in tasks for word in task.request.overrides if "oc.env" in word})
        for stage in stages(tasks, self.after, self.cluster.runs_per_job):
            needs = {key for job in stage.jobs for task in job for key in self.after.get(task.request.key, ())}
            before = sorted({adopted[key] for key in needs & adopted.keys()}, key=int)
            before += [number for place in stage.after for number in numbers[place]]
            starts = range(0, len(stage.jobs), self.largest)
            numbers.append([self._array(stage.jobs[start : start + self.largest], before, words) for start in starts])

    def _array(self, jobs: Sequence[Sequence[Task]], before: Sequence[str], words: tuple[str, ...]) -> str:
        """The number of an array of jobs."""
        outputs = Path(jobs[0][0].outputs)
        marks = [{task.request.key: mark(outputs, task.request.key) for task in job} for job in jobs]
        submission = named(self.name, marks)
        submission.note(self.waiting.home)
        self.waiting.add(submission, jobs)
        batches = [self._batch(job, here, words) for job, here in zip(jobs, marks, strict=True)]
        number = self._queued(submission.name, submission.folder(self.waiting.home), jobs[0][0], before, batches)
        runs = sum(len(job) for job in jobs)
        behind = f", after {' '.join(before)}" if before else ""
        print(f"job {number}: {len(jobs)} in the array, {runs} runs{behind}", flush=True)
        return number

    def _batch(self, job: Sequence[Task], marks: Mapping[str, str], words: tuple[str, ...]) -> Batch:
        needs = {task.request.key: tuple(key for key in self.after.get(task.request.key, ()) if key in marks) for task in job}
        side_by_side = self.cluster.at_a_time(job[0].threads)
        return Batch(tuple(job), needs, marks, os.getcwd(), words, side_by_side, self.cluster.requeues)

    def _queued(self, name: str, folder: Path, task: Task, before: Sequence[str], batches: Sequence[Batch]) -> str:
        """Hand an array to Slurm: its number.

        A run whose victim's job failed makes that victim itself, so that it must come after that job, however that ended.
        """
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        cluster, threads = self.cluster, task.threads
        processors = cluster.processors(threads)
        asked: dict[str, Any] = {
            "job_name": name,
            "comment": task.group,
            "wckey": None,
            "partition": cluster.partition,
            "account": cluster.account,
            "time": cluster.minutes(task.timeout, threads),
            "gpus_per_node": cluster.gpus or None,
            "cpus_per_task": processors,
            "mem": None if cluster.memory is None else f"{math.ceil(cluster.memory * 1024)}M",
            "signal_delay_s": cluster.signal,
            "array_parallelism": self.jobs,
            "dependency": f"afterany:{':'.join(before)}" if before else None,
            "srun_args": [f"--cpus-per-task={processors}"],  # which srun does not take over since Slurm 22.05
            "additional_parameters": {key: value in ("", "true") or value for key, value in cluster.additional.items()},
        }
        try:
            with outside_a_job(), redirect_stderr(StringIO()):  # what sbatch says is in the error as well
                executor = SlurmExecutor(folder)
                executor.update_parameters(**asked)
                return str(executor.map_array(_make, batches)[0].job_id).partition("_")[0]
        except (FailedJobError, FailedSubmissionError) as error:
            said = " ".join(str(error).split()).removeprefix("sbatch: error: ")
            raise Refused(f"launcher=submitit_slurm: sbatch takes no such job ({said}); change cluster.*") from error


def _make(batch: Batch) -> None:
    batch()
