"""What `testbed tune` says: its plan, a line a trial, all trials as a table, and the best as files for the other verbs."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from testbed.files import read_json, write_whole
from testbed.launcher.compose import parsed
from testbed.launcher.objective import Ran, weak
from testbed.launcher.space import ROOTS, listed
from testbed.launcher.study import SCORED, Point, Study, begun
from testbed.launcher.tuning import Tuning
from testbed.plan import last_of, root
from testbed.table import console
from testbed.words import Refused

FEW = 100
"""With fewer rows than this, one row is more than a percentage point."""


def print_plan(asked: Tuning) -> None:
    """What would be run, and what each trial is made of."""
    points = listed(asked.dimensions, asked.options.trials)
    trials = asked.options.trials if points is None else len(points)
    print("\n".join(_about(asked, trials, "TPE" if points is None else "every point of the grid")))
    for key, found in asked.dimensions.items():
        print(f"  {key} = {found.text}")
    print(f"each trial is {len(asked.requests)} runs, {trials * len(asked.requests)} in all:")
    for request in asked.requests:
        print(f"  {request.label}: {' '.join(shlex.quote(word) for word in asked.words(request, ()))}")
    print(f"{asked.folder}: {'begun before, and gone on with' if begun(asked.folder) else 'would be begun'}")


def head(asked: Tuning, study: Study, interrupted: int) -> Iterator[str]:
    """What is searched and how far it is."""
    yield from _about(asked, study.total, "TPE" if study.points is None else "every point of the grid")
    done = len(study.finished())
    if done or interrupted:
        again = f"; {interrupted} interrupted, which is run again" if interrupted else ""
        yield f"{asked.folder}: {done} of {study.total} trials are done{again}"


def _about(asked: Tuning, trials: int, how: str) -> Iterator[str]:
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(request.seed for request in asked.requests))
    yield f"{asked.study}: {asked.kind}={asked.name}, suite {asked.suite.name}-{asked.suite.hash}, {trials} trials ({how})"
    yield f"objective: {asked.objective}"
    what = "dev attacks" if asked.kind == "defence" else "defences"
    yield f"on validation rows only; {what}: {', '.join(asked.against)}; seeds of the runs: {seeds}"
    yield f"departures from the suite: {'; '.join(asked.departures) or 'none'}"


def told(point: Point, study: Study) -> str:
    """A trial in one line."""
    said = " ".join(point.words)
    return f"[{point.place + 1}/{study.total}] {said}: {_outcome(point)} ({point.verdict.seconds:.1f} s)"


def _outcome(point: Point) -> str:
    found = point.verdict
    value = "" if found.value is None else f"{found.value:.4f}"
    if found.status == "done":
        return value + (f" ({found.reason})" if found.reason else "")
    return f"{found.status}{f' ({value})' if value else ''}: {found.reason}"


def print_study(asked: Tuning, study: Study) -> None:
    """Every trial, and what to think of the best."""
    out, points, best = console(), study.finished(), study.best()
    table = Table("trial", *asked.dimensions, "score", "clean lost", "n", "status", box=None, padding=(0, 1))
    for point in points:
        found = point.verdict
        values = [word.partition("=")[2] for word in point.words]
        score = "-" if found.status not in SCORED else f"{found.value:.4f}"
        lost = found.parts.get("clean accuracy lost")
        row = [str(point.place + 1), *map(_short, values), score, "-" if lost is None else f"{lost:+.4f}", _n(asked, point)]
        style = "bold" if point == best else ""
        table.add_row(*(Text(cell, style) for cell in row), Text(found.status + (" (best)" if point == best else ""), style))
    out.print(table)
    out.print("n: runs x validation rows that the score of each rests on (the attack's rows / the clean ones)", style="dim")
    for line in _remarks(asked, study):
        out.print(Text(line), soft_wrap=True)


def _short(value: str) -> str:
    try:
        return value if value.lstrip("+-").isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


def _n(asked: Tuning, point: Point) -> str:
    counts = point.verdict.counts
    return f"{len(point.verdict.runs)} x {counts['success']}/{counts['clean']}" if counts else "-"


def _remarks(asked: Tuning, study: Study) -> Iterator[str]:
    points, best = study.finished(), study.best()
    for point in points:
        if point.verdict.status != "done":
            yield f"trial {point.place + 1}: {_outcome(point)}"
    if best is None:
        yield "no trial has a score that counts, so that there is no best"
        return
    least = min(best.verdict.counts.values())
    if least < FEW:
        more = "data.validation_per_class=N sets more of them apart, where the data take it"
        yield f"warning: one row of {least} is {100 / least:.1f} percentage points; {more}"
    for attack in weak(_ran(asked, best)):
        yield f"warning: {attack} is not 10 points above its clean twin: there is hardly anything to defend against"


def _ran(asked: Tuning, point: Point) -> list[Ran]:
    runs = zip(asked.requests, point.verdict.runs, strict=True)
    return [Ran(request, read_json(asked.outputs / run / "result.json"), run) for request, run in runs]


def write_best(asked: Tuning, study: Study, command: Sequence[str], place: Sequence[str]) -> None:
    """`trials.csv`, and where there is a best `best.yaml` and the tuned method as a YAML of its own; say how to use it.

    `place` is the user's --config-dir, as two words, where there is one.
    """
    _write(asked.folder / "trials.csv", _csv(asked, study))
    best = study.best()
    if best is None:
        (asked.folder / "best.yaml").unlink(missing_ok=True)
        return
    _write(asked.folder / "best.yaml", yaml.safe_dump(_best(asked, study, best, command), sort_keys=False, allow_unicode=True))
    print(f"best of {study.total} trials, n = {_n(asked, best)}: {_outcome(best)}")
    print(f"  {shlex.join(['testbed', 'train', *place, *_overrides(asked, best)])}")
    if tuned := _tuned_yaml(asked, study, best):
        print(f"  testbed train --config-dir {shlex.quote(str(tuned.parent.parent))} {asked.kind}={tuned.stem}")
    print(asked.folder, flush=True)


def _overrides(asked: Tuning, best: Point) -> list[str]:
    """What makes the tuned method of a run's defaults."""
    return list(last_of([*asked.fixed, *best.words]))


def _best(asked: Tuning, study: Study, best: Point, command: Sequence[str]) -> dict[str, Any]:
    ends = [point.verdict.status for point in study.finished()]
    return {
        "study": asked.study,
        **{asked.kind: asked.name},
        "overrides": _overrides(asked, best),
        "values": {parsed(word).get_key_element().lstrip("+"): parsed(word).value() for word in best.words},
        "score": best.verdict.value,
        "parts": dict(best.verdict.parts),
        "n": {"runs": len(best.verdict.runs), **{f"{name} rows": n for name, n in best.verdict.counts.items()}},
        "trial": best.place + 1,
        "trials_made": study.total,
        "trials_by_status": {status: ends.count(status) for status in dict.fromkeys(ends)},
        **study.declared,
        "command": list(command),
    }


def _tuned_yaml(asked: Tuning, study: Study, best: Point) -> Path | None:
    """The tuned method, whole, as its best trial ran it, for `--config-dir`; None where it also needs what is not its own."""
    if {root(word) for word in best.words} != {asked.kind} or {root(word) for word in asked.fixed} - {*ROOTS[asked.kind]}:
        return None
    config = (asked.outputs / best.verdict.runs[0] / "config.yaml").read_text(encoding="utf-8")
    node = yaml.safe_load(config)[asked.kind]
    place = asked.folder / "conf" / asked.kind / f"{asked.name}_tuned.yaml"
    what = f"{asked.name}, tuned with {study.total} trials on validation rows ({', '.join(asked.against)})"
    first = f"# {what}: {best.verdict.value:.4f}, n = {_n(asked, best)}.\n# testbed train --config-dir {asked.folder / 'conf'} "
    text = yaml.safe_dump(node, sort_keys=False, allow_unicode=True)
    _write(place, f"{first}{asked.kind}={place.stem}\n{text}")
    return place


def _csv(asked: Tuning, study: Study) -> str:
    stream = io.StringIO()
    names = ["success_rows", "clean_rows"]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", *asked.dimensions, "score", "status", "reason", "runs", *names, "seconds"])
    for point in study.finished():
        found = point.verdict
        counts: Mapping[str, int] = found.counts
        rows = [counts.get(name.removesuffix("_rows"), "") for name in names]
        values = [word.partition("=")[2] for word in point.words]
        score = "" if found.value is None else found.value
        writer.writerow([point.place + 1, *values, score, found.status, found.reason, len(found.runs), *rows, found.seconds])
    return stream.getvalue()


def _write(place: Path, text: str) -> None:
    try:
        write_whole(place, text)
    except OSError as error:
        raise Refused(f"{place}: it cannot be written ({error.strerror})", 4) from error
