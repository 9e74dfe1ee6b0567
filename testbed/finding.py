"""An audit in a terminal: what was read, a line a detector, and the last line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from testbed.files import read_json
from testbed.table import console
from testbed.verdict import COHORTS, NOTHING, STANDS_OUT, USUAL

EXCLUDES = (
    "this excludes no backdoor: each detector sees certain triggers only, and an attacker who knows it can hide from it"
    " (docs/auditing.md says what each is blind to)"
)


def print_audit(folder: Path, seconds: float) -> None:
    """The report of an audit that is done."""
    out, report = console(), read_json(folder / "audit.json")
    out.print(f"{folder.name} ({seconds:.1f} s)")
    for name, value in heading(report):
        out.print(f"  {name:<16}{escape(value)}", soft_wrap=True)
    if report["detectors"]:
        out.print(_lines(report))
    for detector in report["detectors"]:
        out.print(f"  {detector['detector']}: {detector['word']}: {escape(detector['why'])}", soft_wrap=True)
    for reason, names in sorted(_by_reason(report["not_asked"]).items()):
        out.print(f"  [dim]not asked ({escape(reason)}): {', '.join(names)}[/dim]", soft_wrap=True)
    for line in ending(report):
        out.print(escape(line), soft_wrap=True)
    pictures = sorted((folder / "figures").glob("*_most_suspicious.png"))
    for picture in pictures:
        out.print(f"  what would send anything to that class (mask, pattern, both): {picture}", soft_wrap=True)


def print_conclusion(folder: Path, seconds: float) -> None:
    """The same in one line, for sweeps."""
    print(f"    {next(ending(read_json(folder / 'audit.json')))} ({seconds:.1f} s)")


def heading(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was read and how, by name."""
    file, fit = report["file"], report["fitness"]
    claims = ", ".join(f"{name}={value}" for name, value in file["claims"].items())
    yield "file", f"{file['path']} ({file['kind']}{'; it says ' + claims if claims else ''})"
    yield "sha256", file["sha256"]
    yield "read in", file["sandbox"]
    yield "its own mark", file["mark"] or "none (which says nothing: a mark is easily taken off)"
    if file["normalisation"]:
        yield "normalisation", file["normalisation"]
    clean = fit["clean"]
    beside = f"; {clean['n']} clean models: {clean['low']:.3f} to {clean['high']:.3f}" if clean["n"] else "; no clean models"
    yield fit["name"], f"{fit['value']:.3f} (n = {fit['n']}{beside})"


def _lines(report: Mapping[str, Any]) -> Table:
    table = Table(
        "detector", "above clean", "clean models", "p", "score", "its rule", "fires on clean", "verdict", "toward", box=None
    )
    for line in report["detectors"]:
        clean, fired = line["clean"], line["clean_fired"]
        rule = {True: "fires", False: "silent", None: "-"}[line["fired"]]
        often = f"{sum(fired)} of {len(fired)}" if fired else "-"
        table.add_row(
            line["detector"],
            _number(line["value"]) if clean else "-",
            f"{min(clean):.2f} to {max(clean):.2f}" if clean else "-",
            _number(line["p"]),
            _number(line["score"]),
            rule,
            often,
            line["word"],
            escape(_toward(line, report)),
        )
    return table


def _toward(line: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The class of the highest score, in brackets where it is not suspected; and what was reconstructed."""
    parts = [] if line["toward"] is None else [f"class {line['toward']} ({report['classes'][line['toward']]})"]
    parts += [] if not line["trigger"] else [repr(line["trigger"])]
    told = ", ".join(parts) or "-"
    return told if line["word"] == STANDS_OUT or told == "-" else f"[{told}]"


def ending(report: Mapping[str, Any]) -> Iterator[str]:
    """The last lines: the answer, how often a clean model would get it, and what it leaves open."""
    end = report["conclusion"]
    doubt = f": {end['doubt']}" if end["doubt"] else ""
    yield f"{end['word'].upper()}{_accusers(report)}{doubt}"
    if end["p"] is not None:
        if len([line for line in report["detectors"] if line["p"] is not None]) > 1:
            yield (
                f"  by all detectors together {end['value']:.2f} deviations from the other models; clean models"
                f" {min(end['clean']):.2f} to {max(end['clean']):.2f} (p {end['p']:.3f}); a line above is a lead"
            )
        yield (
            f"  a clean model of this kind is called suspicious in {end['false_alarm_rate']:.1%} of audits, averaged over draws"
            f" of the clean models; population={end['enough']} makes that {USUAL:.0%}"
        )
        yield (
            f"  audits that share these clean models err together, at up to {end['unlucky']:.1%} for {COHORTS:.0%} of such"
            " cohorts; another seed= draws others"
        )
    if end["word"] == NOTHING:
        yield f"  {EXCLUDES}"
    fires = [line["detector"] for line in report["detectors"] if line["p"] is None and line["fired"]]
    if fires:
        names = ", ".join(fires)
        yield f"  the paper's own rule fires ({names}); how often it does so on clean models of this kind is not known"


def _accusers(report: Mapping[str, Any]) -> str:
    """', toward class 3 (cat) by a, b', or each detector with a class of its own where they do not all name the same."""
    end = report["conclusion"]
    guilty = [line for line in report["detectors"] if line["detector"] in end["detectors"]]
    if not guilty:
        return ""
    classes = {line["toward"] for line in guilty}
    named = {place: "" if place is None else f"toward class {place} ({report['classes'][place]})" for place in classes}
    if len(classes) == 1:
        told = named[classes.pop()]
        return f"{', ' + told if told else ''} by {', '.join(end['detectors'])}"
    each = (f"{line['detector']} ({named[line['toward']]})" if named[line["toward"]] else line["detector"] for line in guilty)
    return f" by {', '.join(each)}"


def _by_reason(not_asked: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in sorted(not_asked.items()):
        found.setdefault(reason, []).append(name)
    return found


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
