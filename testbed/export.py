"""Comparisons for other people's tables: CSV with the columns of BackdoorBench's results.csv, and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from testbed.leaderboard import Cell, Leaderboard, Trial
from testbed.plan import CLEAN
from testbed.statistics import Interval, wilson
from testbed.table import Row, columns_of, heading, legend

MEASURES = {"test_acc": "clean_accuracy", "test_asr": "attack_success_rate", "test_ra": "robust_accuracy"}
COLUMNS = (
    *("dataset", "backbone", "attack_name", "defense_name", "ratio", *MEASURES, "seed", "n_seeds"),
    *(f"{name}_n" for name in MEASURES),
    *(f"{name}_{end}" for name in MEASURES for end in ("low", "high", "guaranteed_low", "guaranteed_high")),
    *("interval", "world", "suite", "trial"),
)
OVER_ROWS, OVER_SEEDS = "Wilson 95 % over test rows", "Student 95 % over seeds"
OVER_TRIALS = "Wilson 95 % over trials; of test_acc Student 95 % over seeds"
EVERY_SEED = "all"
THEIRS = {
    "backbone": {"preact_resnet18": "PreActResNet-18", "vgg19_bn": "VGG19_BN"},
    "attack": {"badnets": "BadNet", "blended": "Blended", "sig": "SIG"},
    "defence": {"fine_tuning": "ft", "fine_pruning": "fp", "neural_cleanse": "nc"},
}
"""What BackdoorBench (Wu et al. 2022, NeurIPS) calls these; other names stay as they are."""


def backdoorbench(boards: Iterable[Leaderboard]) -> str:
    """CSV: for each cell a row over its seeds (`seed` is 'all'), then one for each run. Rates are in percent, as there.

    Over seeds, `low` and `high` are Student's interval of the mean and `guaranteed` is the one that holds whatever the
    distribution is; of one run they are Wilson's, over the `n` rows of the test. A run that is not done has empty numbers.
    Of a targeted attack each run is a `trial`, and its success is judged over these (Wilson's interval, n trials).
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for board in boards:
        for cell in board.cells:
            place = {"world": cell.world, "suite": f"{board.title} {board.hash}".strip() if board.hash else ""}
            writer.writerows({**place, **row} for row in _rows(cell))
    return stream.getvalue()


def _rows(cell: Cell) -> Iterator[dict[str, Any]]:
    names = next((trial.names for trial in cell.trials if trial.names), {})
    reached = next((trial.measures.get("poison_rate_asked") for trial in cell.trials if trial.measures), None)
    told = {
        "dataset": names.get("data", ""),
        "backbone": _their("backbone", names.get("model", "")),
        "attack_name": _their("attack", cell.attack),
        "defense_name": _their("defence", cell.method),
        "ratio": 0 if cell.attack == CLEAN else _text(cell.rate if cell.rate is not None else reached),
    }
    over = OVER_TRIALS if any(spread.trials is not None for spread in cell.spreads.values()) else OVER_SEEDS
    yield {**told, "seed": EVERY_SEED, "interval": over, **_over_seeds(cell)}
    for trial in cell.trials:
        turn = {"seed": trial.seed, **({"trial": trial.trial} if trial.targeted else {})}
        yield {**told, **turn, "n_seeds": 1, "interval": OVER_ROWS, **_of_run(trial)}


def _their(kind: str, name: str) -> str:
    return THEIRS[kind].get(name, name)


def _over_seeds(cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = {"n_seeds": len({trial.seed for trial in cell.done})}
    for column, measure in MEASURES.items():
        if measure in cell.spreads:
            spread = cell.spreads[measure]
            found |= {f"{column}_n": spread.interval.n, **_percent(column, spread.interval)}
            if spread.guaranteed is not None:
                found |= _percent(f"{column}_guaranteed", spread.guaranteed)
                del found[f"{column}_guaranteed"]
    return found


def _of_run(trial: Trial) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for column, measure in MEASURES.items():
        value, n = trial.measures.get(measure), trial.counts.get(measure)
        if trial.status == "done" and value is not None:
            interval = wilson(float(value), n) if n else Interval(float(value), None, None, 1)
            found |= {f"{column}_n": "" if n is None else n, **_percent(column, interval)}
    return found


def _percent(column: str, interval: Interval) -> dict[str, str]:
    ends = {column: interval.mean, f"{column}_low": interval.low, f"{column}_high": interval.high}
    return {name: "" if value is None else f"{100 * value:.4f}" for name, value in ends.items()}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else ""


SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"},
    **{">": r"\textgreater{}", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "–": "--", "|": r"\textbar{}"},
}


def latex(title: str, rows: Sequence[Row]) -> str:
    """A table by the package booktabs: a column for each label, the n, and each measure with its interval.

    What all rows share stands in the caption, settings that differ beneath the table; single seeds are left to the CSV.
    """
    shared, labels, measures = columns_of(rows)
    names = [*labels, *([] if "n" in shared else ["n"]), *measures]
    notes = {
        settings: str(place + 1) for place, settings in enumerate(dict.fromkeys(row.settings for row in rows if row.settings))
    }
    lines = [[escape(heading(name)) for name in names]]
    lines += [_line(row, names, measures, notes) for row in rows]
    told = ", ".join(f"{name} = {value}" for name, value in shared.items())
    said = [f"{letter}) {settings}" for settings, letter in notes.items()]
    said += [meaning] if (meaning := legend(rows).replace(", each seed beneath", "")) else []
    beneath = [f"\\\\ {{\\footnotesize {escape(line)}}}" for line in said]
    alignment = "l" * len(labels) + "r" * (len(names) - len(labels))
    body = [" & ".join(line) + r" \\" for line in lines]
    return "\n".join(
        [
            *(r"\begin{table}", r"\centering", f"\\caption{{{escape(title)}{escape('; ' + told if told else '')}}}"),
            *(f"\\begin{{tabular}}{{{alignment}}}", r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"),
            *(r"\end{tabular}", *beneath, r"\end{table}", ""),
        ]
    )


def _line(row: Row, names: Sequence[str], measures: Sequence[str], notes: Mapping[str, str]) -> list[str]:
    cells = []
    for name in names:
        figure = row.figures[name] if name in measures else None
        value = (figure.text if figure else None) if name in measures else row.n if name == "n" else row.labels.get(name)
        cells.append("--" if value is None else escape(str(value)))
    return [*cells[:-1], cells[-1] + (f"\\textsuperscript{{{notes[row.settings]}}}" if row.settings else "")]


def escape(words: str) -> str:
    """Words in which LaTeX sees no command."""
    return "".join(SPECIAL.get(sign, sign) for sign in words)
