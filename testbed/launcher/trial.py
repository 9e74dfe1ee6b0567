"""One trial: its runs, one after the other in this process, by the same code as `testbed train` but on validation rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.files import read_json
from testbed.launcher.compose import configuration, plain
from testbed.launcher.declared import contents_of, require_same_data
from testbed.launcher.instantiate import named_by_user
from testbed.launcher.job import Ended, Job, ended
from testbed.launcher.objective import Ran, judged
from testbed.launcher.search import SearchPath
from testbed.launcher.study import Verdict
from testbed.launcher.tuning import Tuning
from testbed.plan import Request
from testbed.words import Refused, Terminated

LOG = "log.txt"
"""What the runs of a study printed."""


@dataclass(frozen=True)
class Trials:
    """What the runs of all trials have in common."""

    asked: Tuning
    command: tuple[str, ...]
    search: SearchPath
    debug: bool

    def verdict(self, chosen: Sequence[str], met: Mapping[str, str]) -> Verdict:
        """How the trial with these words ends. Once a run of it leaves no score possible, the others are not run.

        `met` are the contents of the data of the trials before it, by the label of the run.

        Raises:
            Refused: something is wrong that is no matter of the parameters searched; the data are no longer what they were.
        """
        started, ran, contents = time.monotonic(), list[Ran](), dict[str, str]()
        for request in self.asked.requests:
            found = self._run(request, chosen)
            if isinstance(found, Verdict):
                return replace(found, contents=contents, seconds=round(time.monotonic() - started, 1))
            ran.append(found)
            contents[request.label] = contents_of(self.asked.outputs / found.folder)
            require_same_data(self.asked.study, request.label, met.get(request.label), contents[request.label])
            skipped = found.result["status"] == "skipped" and self.asked.kind == "attack"  # a defence fewer, no more
            if found.result["status"] != "done" and not skipped:
                break
        made = judged(self.asked.kind, self.asked.loss, ran)
        return replace(made, contents=contents, seconds=round(time.monotonic() - started, 1))

    def _run(self, request: Request, chosen: Sequence[str]) -> Ran | Verdict:
        words = self.asked.words(request, chosen)
        composed = configuration("train", words, self.search)
        permitted = named_by_user(words, self.search.users)
        group = f"study-{self.asked.study}"
        job = Job("tune", plain(composed.config), composed.choices, self.command, permitted, group, self.debug)
        with _logged(self.asked.folder / LOG, f"{request.label} {' '.join(chosen)}"):
            end = ended(job)
        if end.folder is None:
            return self._without_record(request, end)
        place = end.folder.resolve().relative_to(self.asked.outputs.resolve()).as_posix()
        return Ran(request, read_json(end.folder / "result.json"), place)

    def _without_record(self, request: Request, end: Ended) -> Verdict:
        """A run that was refused, or failed before it was one: the parameters' fault, or everybody's."""
        said = end.message.removeprefix("error: ")
        if end.code == 130:
            raise KeyboardInterrupt
        if end.code == 143:
            raise Terminated("SIGTERM")
        if end.code == 2 and said.startswith(tuple(f"{key.lstrip('+')}=" for key in self.asked.dimensions)):
            return Verdict("invalid", said)
        if end.code in (2, 3, 4):
            raise Refused(said, end.code)
        return Verdict("failed", f"{request.label}: {said}")


@contextmanager
def _logged(log: Path, title: str) -> Iterator[None]:
    """What is printed inside goes to the end of a file, under this title."""
    with log.open("a", encoding="utf-8") as stream, redirect_stdout(stream), redirect_stderr(stream):
        print(f"== {title}", flush=True)
        yield
