"""Fine-tuning that is watched: measured on a schedule of steps, inside the training, without disturbing it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.answers import read_answers, record, write_answers
from testbed.api import Examples, Victim
from testbed.artefact import save_victim, whole
from testbed.degradation import schedule
from testbed.files import committed, read_json, write_json
from testbed.fit import BatchPlan, Settings, fit, length
from testbed.identity import TRAINING_CORE, derive, describe, examples_digest, key, poison_digest, sources, weights_digest
from testbed.lock import lock
from testbed.marks import origin_of
from testbed.record import Workspace
from testbed.trajectory import Asked, Exams, Point, look, plain, revived

WATCH_CORE = (*TRAINING_CORE, "testbed.trajectory", "testbed.metrics", "testbed.language", "testbed.pipeline.watch")


@dataclass
class Trajectory:
    """The moments of one fine-tuning, and all that was said in them."""

    points: list[Point]
    said: list[dict[str, Any]]

    @property
    def last(self) -> Point:
        return self.points[-1]

    @property
    def first(self) -> Point:
        return self.points[0]


@dataclass(frozen=True)
class Watcher:
    """How one fine-tunes here, and what is measured when. `share` of the rows are the attacker's."""

    settings: Settings
    seed: int
    exams: Exams
    outputs: Path
    workspace: Workspace
    measure_at: Sequence[int] | None = None

    def steps(self, rows: Examples) -> tuple[int, ...]:
        """The steps at which is measured: the user's, or the schedule's, up to the last one of the training."""
        plan = BatchPlan(rows, self.settings.batch_size, 0, self.settings.device)
        last = length(len(plan), self.settings, None, None)
        if self.measure_at is None:
            return tuple(sorted({0, *schedule(last)}))
        late = sorted(step for step in self.measure_at if step > last)
        if late:
            print(f"measure_at: the fine-tuning ends at step {last}, before {', '.join(map(str, late))}", file=sys.stderr)
        return tuple(sorted({0, last, *(step for step in self.measure_at if step <= last)}))

    def follow(
        self,
        start: Victim,
        rows: Examples,
        *,
        share: float,
        shown: Callable[[Victim], Victim] = copy.deepcopy,
        keep: Path | None = None,
    ) -> Trajectory:
        """Fine-tune a copy of `start`; at each step measure what `shown` makes of it. `keep` is where its weights go."""
        found = Trajectory([], [])

        def measure(step: int, victim: Victim) -> None:
            measured, told = look(shown(victim), self.exams)  # type: ignore[arg-type]
            found.points.append(Point(step, share * self._seen(rows, step, start), measured))
            found.said.extend(records(told, step))
            if keep is not None:
                place = keep / f"step-{step:06}"
                place.mkdir(parents=True)
                told = {"step": step, "seed": self.seed, **origin_of(self.workspace.folder / "manifest.json")}
                save_victim(victim, place, [], told, True)

        from testbed.training import AtSteps

        fit(start, rows, settings=self.settings, seed=self.seed, callbacks=[AtSteps(self.steps(rows), measure)])
        return found

    def shared(self, start: Victim, rows: Examples, *, share: float) -> Trajectory:
        """The same without a defence: followed once for all defences that are compared with it."""
        folder = self.outputs / "trajectory" / self._key(start, rows, share)
        with lock(folder) as held:
            if whole(folder, "points.json"):
                self.workspace.reused.append(f"trajectory/{folder.name}")
                return Trajectory(revived(read_json(folder / "points.json")), read_answers(folder / "answers.jsonl"))
            found = self.follow(start, rows, share=share)
            with committed(folder, held) as place:
                write_json(place / "points.json", plain(found.points))
                write_answers(place / "answers.jsonl", found.said)
            self.workspace.made.append(f"trajectory/{folder.name}")
            return found

    def tuned(self, start: Victim, rows: Examples) -> Victim:
        """Fine-tuned on these rows, unwatched."""
        return fit(start, rows, settings=self.settings, seed=self.seed)[0]

    def _seen(self, rows: Examples, step: int, start: Victim) -> float:
        """Rows trained on in so many steps, with repetition; a victim that passes over batches says over how many."""
        taken = getattr(start, "taken", None)
        batches = step * self.settings.accumulate
        kept = taken(batches) / batches if taken is not None and batches else 1.0
        return kept * self._delivered(rows, step)

    def _delivered(self, rows: Examples, step: int) -> int:
        ends = [0, *BatchPlan(rows, self.settings.batch_size, 0, self.settings.device).ends, len(rows)]
        batches = len(ends) - 1
        each = -(-batches // self.settings.accumulate)
        whole, part = divmod(step, each)
        return whole * len(rows) + ends[min(part * self.settings.accumulate, batches)]

    def _key(self, start: Victim, rows: Examples, share: float) -> str:
        exams = self.exams
        return key(
            victim=describe(start),
            weights=weights_digest(start),
            rows=examples_digest(rows),
            trainer=describe(self.settings),
            seed=self.seed,
            steps=self.steps(rows),
            judge=describe(exams.judge),
            criterion=exams.criterion,
            asked={name: examples_digest(examples) for name, examples in exams.asked.items()},
            share=share,
            test=examples_digest(exams.test) if exams.attackers else None,
            attackers={name: poison_digest(exam) for name, exam in exams.attackers.items()},
            sources=sources(start, exams.judge, self.settings, core=WATCH_CORE),
        )


def records(told: dict[str, Asked], step: int | None, victim: str = "") -> list[dict[str, Any]]:
    """What was said, as rows for `answers.jsonl`."""
    return [
        record(exam, step, victim, row, prompt=prompt, reply=reply, reference=reference, outcome=int(outcome), wanted=wanted)
        for exam, asked in told.items()
        for row, (prompt, reply, reference, outcome, wanted) in enumerate(
            zip(
                *(asked.prompts, asked.replies, asked.references, asked.outcomes.tolist()),
                asked.wanted or [None] * len(asked.prompts),
                strict=True,
            )
        )
    ]


def tuning_seed(seed: int, draw: int) -> int:
    """The seed of the fine-tuning: a draw of its own for each draw of the attack."""
    return derive(seed, "fine-tuning" if draw == 0 else f"fine-tuning, draw {draw}")
