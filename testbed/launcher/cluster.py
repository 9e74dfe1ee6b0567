"""What a grid asks of a Slurm cluster: values of `cluster.*` in `conf/benchmark.yaml`. Imports nothing heavy."""

from __future__ import annotations

import math
import re

import pydantic

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,-]{0,199}")
OURS = {
    **dict.fromkeys(("array", "dependency", "job-name", "output", "error", "open-mode", "chdir", "requeue", "comment"), ""),
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node"), ""),
    "partition": "cluster.partition",
    "account": "cluster.account",
    "time": "cluster.time",
    "signal": "cluster.signal",
    "gpus-per-node": "cluster.gpus",
    "cpus-per-task": "cluster.cpus",
    "mem": "cluster.memory",
}
"""Options of sbatch that cannot be additional, with the key that sets them where there is one."""
MARGIN = 5
"""Minutes that a job has beside what its runs may take: to start, and to record what was interrupted."""


class Cluster(pydantic.BaseModel):
    """What each job gets. None leaves it to the cluster; `time` in minutes, `memory` in GiB, `signal` in seconds.

    A job makes `runs_per_job` runs, `at_a_time` of them side by side. It is told `signal` seconds before its time is over, and
    then records its runs as interrupted and goes to the queue again, `requeues` times at most.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    partition: str | None = None
    account: str | None = None
    time: int | None = pydantic.Field(None, ge=1, le=60 * 24 * 366)
    gpus: int = pydantic.Field(0, ge=0, le=64)
    cpus: int | None = pydantic.Field(None, ge=1, le=4096)
    memory: float | None = pydantic.Field(None, gt=0, le=1e5, allow_inf_nan=False)
    runs_per_job: int = pydantic.Field(1, ge=1)
    requeues: int = pydantic.Field(3, ge=0)
    signal: int = pydantic.Field(90, ge=30, le=65535)
    additional: dict[str, str] = pydantic.Field(default_factory=dict)

    @pydantic.field_validator("partition", "account")
    @classmethod
    def _named(cls, given: str | None) -> str | None:
        if given is not None and not NAME.fullmatch(given):
            raise ValueError("a name has letters, digits, '_', '.' and '-'; several partitions stand with ',' between them")
        return given

    @pydantic.field_validator("additional")
    @classmethod
    def _plain(cls, given: dict[str, str]) -> dict[str, str]:
        for name, value in given.items():
            plain = name.replace("_", "-")
            if not re.fullmatch(r"[a-z][a-z0-9-]*", plain):
                raise ValueError(f"sbatch has no long option {name}; say cluster.additional.NAME=VALUE, as in qos=high")
            if plain in OURS:
                raise ValueError(f"{name} is set by testbed itself; {f'say {OURS[plain]}=' if OURS[plain] else 'leave it out'}")
            if "\n" in value:
                raise ValueError(f"{name} has more than one line; an option of sbatch is one")
        return {name.replace("_", "-"): value for name, value in given.items()}

    @pydantic.model_validator(mode="after")
    def _time_to_record(self) -> Cluster:
        if self.time is not None and self.time * 60 <= self.signal:
            raise ValueError(f"time={self.time} min leaves nothing before the signal {self.signal} s earlier; give more time")
        return self

    def processors(self, threads: int) -> int:
        """Processors of a job: those that are asked for, or as many as one run has threads."""
        return self.cpus or threads

    def at_a_time(self, threads: int) -> int:
        """Runs side by side in a job: one where there is a GPU to share, or else as many as its processors have threads for."""
        return 1 if self.gpus else max(1, min(self.runs_per_job, self.processors(threads) // threads))

    def minutes(self, timeout: float | None, threads: int) -> int | None:
        """The limit of a job: as given, or what its runs may take with `timeout` seconds each, or None for the partition's."""
        if self.time is not None or timeout is None:
            return self.time
        turns = math.ceil(self.runs_per_job / self.at_a_time(threads))
        return math.ceil(turns * timeout / 60) + MARGIN
