"""Stored replies judged again, by another judge: nothing is trained and nothing is generated."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from testbed import plain_yaml
from testbed.agreement import Label, agreement, labelled, read_labels
from testbed.answers import asked, read_answers
from testbed.api import Invalid, Unsupported, component
from testbed.files import digest, read_json
from testbed.identity import describe, key, sources
from testbed.language import OUTCOMES, Judge
from testbed.pipeline.run import log
from testbed.pipeline.verdicts import Rate, ends, rates_of, read_rates, write_rates
from testbed.record import Identity, Origin, Outcome, Workspace, facts, recorded, warn
from testbed.record import runs as run_folders
from testbed.table import console, print_intervals

CORE = (
    "testbed.agreement",
    "testbed.answers",
    "testbed.language",
    "testbed.statistics",
    "testbed.pipeline.rejudge",
    "testbed.pipeline.verdicts",
)
NEVER = "there is nothing to compare with"
SAME = "both always say one and the same"


def rejudge(root: Path, judge: Judge, labels: str | None, *, outputs: Path, origin: Origin, logger: Any) -> int:
    """Every run with `answers.jsonl` below `root`, judged again: 0, or 1 if the judge failed on some.

    Raises:
        Invalid: there is no such run, or the judge or the labels cannot be used.
    """
    with component("judge"):
        judge.check(None)
    folders = [folder for folder in run_folders(root) if (folder / "answers.jsonl").is_file()]
    if not folders:
        raise Invalid("runs", root, "there is no run with stored replies below it", "run testbed degrade first")
    path = None if labels is None else Path(labels)
    verdicts = [] if path is None else read_labels(path)
    if len(folders) > 1 and any("run" not in label.named for label in verdicts):
        advice = "give each label its run (the folder's name), or say runs=FOLDER of one run"
        raise Invalid("labels", labels, f"which of the {len(folders)} runs they are about is not said", advice)
    described, failed = describe(judge), False
    for folder in folders:
        mine = [label for label in verdicts if label.named.get("run") in (None, folder.name)]
        identity = _identity(folder, judge, described, path if mine else None)
        if identity is None:
            warn(f"not judged, made by an earlier version: {folder.name}")
            continue
        again = _Again(folder, judge, mine, path)
        place = recorded(identity, outputs, _origin(folder, origin), again.work)
        failed |= _show(log(place, logger, outputs), folder, judge)
    return int(failed)


def _identity(folder: Path, judge: Judge, described: Any, labels: Path | None) -> Identity | None:
    """The run that is judged with the judge: over its answers, whoever made them."""
    known = facts(folder)
    if known is None:
        return None
    values = {"judge": described, "labels": labels is not None}
    contents = {"answers": digest(folder / "answers.jsonl")}
    contents |= {} if labels is None else {"labels": digest(labels)}
    code = sources(judge, core=CORE)
    settings = key(run=known["settings"], **values)
    whole = key(run=known["key"], settings=settings, contents=contents, sources=code)
    cell = key(run=known["cell"], **values)
    return Identity("evaluate", f"{known['name']}-{judge.name}", whole, settings, cell, contents, code)


def _origin(folder: Path, origin: Origin) -> Origin:
    """The configuration of the run that is judged, with this judge in it."""
    config = plain_yaml.read(folder / "config.yaml") or {}
    names = {**(facts(folder) or {}).get("names", {}), "judge": origin.names.get("judge", "")}
    return Origin({**config, "judge": origin.config.get("judge")}, origin.command, names, origin.group)


@dataclass(frozen=True)
class _Again:
    """One run, judged again."""

    folder: Path
    judge: Judge
    labels: Sequence[Label]
    path: Path | None

    def work(self, workspace: Workspace) -> Outcome:
        """Raises `Unsupported` where the judge knows only a toy world, and this is none."""
        before = read_json(self.folder / "result.json")["measures"]
        if self.judge.needs_toy and before.get("toy") is False:
            raise Unsupported(f"judge={self.judge.name} needs a toy world")
        rows = read_answers(self.folder / "answers.jsonl")
        with workspace.phase("judge"), component("judge"):
            found = self.judge.outcomes(*map(list, zip(*map(asked, rows), strict=True))) if rows else []
        said = [OUTCOMES[int(outcome)] for outcome in found]
        rates = rates_of(rows, said, self.judge)
        write_rates(workspace.folder / "judged.csv", rates, self.judge.name)
        _write_outcomes(workspace.folder / "outcomes.csv", rows, said)
        outcome = Outcome(measures={"judge": before.get("judge"), "judged_by": self.judge.name, "toy": before.get("toy")})
        for name, interval in ends(rates).items():
            outcome.measures[f"{name}_{self.judge.name}"] = interval.mean
            outcome.counts[f"{name}_{self.judge.name}"] = interval.n
        stored = [place for place, row in enumerate(rows) if row["outcome"] is not None]
        self._compare(outcome, "", said, [(place, rows[place]["outcome"]) for place in stored])
        if self.path is not None and self.labels:
            self._compare(outcome, "labels_", said, labelled(self.labels, rows, self.path))
        return outcome

    def _compare(self, outcome: Outcome, against: str, said: Sequence[str], others: Sequence[tuple[int, str]]) -> None:
        """Kappa and the share of equal verdicts, with those of another at some places."""
        found = agreement([said[place] for place, _ in others], [other for _, other in others], tells=self.judge.tells)
        kappa, share = (f"{name}_{against}{self.judge.name}" for name in ("kappa", "agreement"))
        outcome.measures |= {kappa: None, share: None} if found is None else {kappa: found.kappa, share: found.share}
        outcome.counts |= {} if found is None else {kappa: found.n, share: found.n}
        if outcome.measures[kappa] is None:
            outcome.reasons[kappa] = NEVER if found is None else SAME


def _write_outcomes(path: Path, rows: Sequence[Mapping[str, Any]], said: Sequence[str]) -> None:
    """Every verdict beside the one before it; prompts by their digests, so that this file may be passed on."""
    names = ("victim", "exam", "step", "row", "prompt_sha256")
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*names, "outcome", "recorded"])
        writer.writerows(
            [*(row[name] for name in names), outcome, row["outcome"]] for row, outcome in zip(rows, said, strict=True)
        )


def _show(place: Path, folder: Path, judge: Judge) -> bool:
    """Print what a judge said of a run; True if it failed."""
    result = read_json(place / "result.json")
    if result["status"] != "done":
        console().print(f"{folder.name}: {result['status']}: {result['reason']}", soft_wrap=True)
        return bool(result["status"] != "skipped")
    before = read_json(folder / "result.json")["measures"]
    rates = read_rates(place / "judged.csv", judge.name)
    measured = {f"{name}_{judge.name}": interval for name, interval in ends(rates).items()}
    print_intervals(
        f"{folder.name} judged by {judge.name}{' (toy)' if before.get('toy') else ''}",
        measured,
        {f"{name}_{judge.name}": value for name, value in before.items()},
    )
    if len({rate.step for rate in rates}) > 2:
        watched = [rate for rate in rates if rate.step is not None and not rate.victim and rate.metric != "compliance_rate"]
        console().print(_steps(watched))
    for name, against in (("", before.get("judge") or "the verdicts stored"), ("labels_", "the labels")):
        if f"agreement_{name}{judge.name}" in result["measures"]:
            print(_sentence(result, f"{name}{judge.name}", str(against)))
    print(place, flush=True)
    return False


def _steps(rates: Sequence[Rate]) -> Table:
    """A row a step, a column a rate."""
    names = list(dict.fromkeys(rate.name for rate in rates))
    values = {(rate.step, rate.name): f"{rate.interval.mean:.3f}" for rate in rates}
    table = Table("step", *(name.replace("_", " ") for name in names), box=None, padding=(0, 1))
    for step in dict.fromkeys(rate.step for rate in rates):
        table.add_row(str(step), *(values.get((step, name), "-") for name in names))
    return table


def _sentence(result: Mapping[str, Any], suffix: str, against: str) -> str:
    share, kappa = result["measures"][f"agreement_{suffix}"], result["measures"][f"kappa_{suffix}"]
    if share is None:
        return f"agreement with {against}: none, {NEVER}"
    said = f"kappa {kappa:.3f}" if kappa is not None else f"no kappa, {result['reasons'][f'kappa_{suffix}']}"
    return f"agreement with {against}: {said}; {share:.1%} of {result['counts'][f'agreement_{suffix}']} verdicts are equal"
