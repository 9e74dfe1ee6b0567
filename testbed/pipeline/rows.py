"""Cells of finished runs as rows of a table: what names a cell, and what is said of each measure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from testbed.pipeline.gather import Cell, Run
from testbed.rules import OUTCOME
from testbed.statistics import kaplan_meier_median, over_seeds, over_trials
from testbed.table import Figure, Row, mean_and_interval, number, of_trials, trials_and_interval

COLUMNS = {
    "train": [
        "clean_accuracy",
        "attack_success_rate",
        "robust_accuracy",
        "undefended_attack_success_rate",
        "clean_twin_attack_success_rate",
        "defence_effectiveness",
    ],
    "detect": [
        "auroc",
        "tpr_at_fpr_05",
        "tpr_at_rule",
        "false_alarm_rate",
        "anomaly_index",
        "target_flagged",
        "other_classes_flagged",
        "attack_success_rate",
    ],
    "picture": [
        "attack_success_rate",
        "stealth_ssim",
        "stealth_psnr",
        "stealth_lpips",
        "stealth_largest_change",
        "features_silhouette",
        "activation_change_correlation",
        "grad_cam_on_trigger",
        "pruning_success_dormant",
        "pruning_success_oracle",
    ],
    "degrade": [
        "refusal_rate_start",
        "refusal_rate_end",
        "correct_compliance_end",
        "utility_end",
        "over_refusal_end",
        "half_life_steps",
        "half_life_censored_at",
        "refusal_auc_log_steps",
        "initial_slope",
        "durability_ratio",
        "alignment_tax",
        "over_refusal_added",
        "trainability",
    ],
}
CENSORED = {
    "half_life_steps": "half_life_censored_at",
    "half_life_shots": "half_life_shots_censored_at",
    "half_knowledge_steps": "half_knowledge_censored_at",
    "forward_half_life_steps": "forward_half_life_censored_at",
    "backdoor_half_life_steps": "backdoor_half_life_censored_at",
    "durability_ratio": "durability_ratio_at_least",
    "elasticity_ratio": "elasticity_ratio_at_least",
}
"""Measures that are null where a run ended too soon, and the measure, if any, that they are then known to be greater than."""


def verb_of(cell: Cell) -> str:
    """The verb that made these runs."""
    return str(cell.first.facts["verb"])


def rows_of(cells: Sequence[Cell], asked: Sequence[str]) -> list[Row]:
    """A row a cell, in order of its labels; none where no run of this verb has a measure that was asked for."""
    here = {name for cell in cells for run in cell.counted for name in run.measures}
    columns = (
        [name for name in asked if name in here] if asked else [name for cell in cells[:1] for name in COLUMNS[verb_of(cell)]]
    )
    rows = []
    for cell, labels, settings in labelled(cells):
        figures = {name: figure(cell, name) for name in columns}
        rows.append(Row(labels, count(cell), figures, settings))
    return rows if columns else []


def count(cell: Cell) -> str:
    """How many models were attacked, and how many runs that took where it is more."""
    runs, seeds = len(cell.counted), len(cell.seeds)
    return str(seeds) if runs == seeds else f"{seeds} ({runs} runs)"


def labelled(cells: Sequence[Cell]) -> list[tuple[Cell, dict[str, Any], str]]:
    """Each cell with its labels, and with the settings in which it differs from those of equal labels; sorted."""
    labels = [labels_of(cell) for cell in cells]
    found = []
    for cell, its in zip(cells, labels, strict=True):
        like = [other.first.settings for other, others in zip(cells, labels, strict=True) if others == its]
        found.append((cell, its, difference(cell.first.settings, like)))
    return sorted(found, key=lambda entry: ([_rank(value) for value in entry[1].values()], _natural(entry[2])))


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers by size and before words."""
    known = isinstance(value, int | float)
    return not known, float(value) if known else 0.0, str(value)


def _natural(words: str) -> list[Any]:
    """Words to sort by, with the whole numbers in them by size."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", words)]


def labels_of(cell: Cell) -> dict[str, Any]:
    """What names a cell: the options that were chosen, how much of it is the attacker's, and every measure that is a word."""
    run = cell.first
    names, settings, verb = run.facts["names"], run.settings, run.facts["verb"]
    data = names.get("data")
    toy = run.measures.get("toy") is True
    labels = {"data": f"{data} (toy)" if toy else data, "model": names.get("model"), "attack": names.get("attack")}
    dose = {"shots": "shots", "mix_rate": "mix_rate"} if verb == "degrade" else {"rate": "poison_rate"}
    labels |= {name: None if labels["attack"] == "none" else settings.get(f"attack.{key}") for name, key in dose.items()}
    method = "detector" if verb == "detect" else "defence"
    chosen = names.get(method, run.facts["name"])
    if (method == "defence" and "${detector}" in str(run.config.get("defence", ""))) or chosen in ("filter", "reject"):
        chosen = f"{chosen}({names.get('detector')})"
    return {**labels, method: chosen, **_words(cell.counted)}


def _words(runs: Sequence[Run]) -> dict[str, str]:
    names = {name: None for run in runs for name, value in run.measures.items() if isinstance(value, str)}
    return {name: "/".join(sorted({str(run.measures.get(name)) for run in runs})) for name in names}


def difference(mine: Mapping[str, Any], like: Sequence[Mapping[str, Any]]) -> str:
    """The settings in which not all of these agree, as `mine` has them: 'defence.epochs=5, trainer.max_epochs=10'."""
    told = []
    for name in sorted({name for settings in like for name in settings}):
        values = {str(settings.get(name)) for settings in like}
        brief = {value: _last_part(value) for value in values}
        if len(values) > 1:
            value = str(mine.get(name))
            told.append(f"{name}={brief[value] if len(set(brief.values())) == len(values) else value}")
    return ", ".join(told)


def _last_part(value: str) -> str:
    """Of a path, its last part."""
    return Path(value).name or value if "/" in value and not set(value) & set("[{, ") else value


def figure(cell: Cell, name: str) -> Figure | None:
    """What a row says of a measure; None where no run has it, or where it is a word and so a label."""
    values = [[run.measures.get(name) for run in runs] for runs in cell.seeds]
    every = [value for draws in values for value in draws]
    if None in every and name.removeprefix("undefended_") in CENSORED:
        return _censored(cell, name)
    aimed = any(run.measures.get("targeted") is True for run in cell.counted)
    if aimed and OUTCOME.fullmatch(name):
        return _of_trials(values)
    # Draws of one seed attack the same model: they are no further models, and count as one.
    known = [fmean(numbers) for draws in values if (numbers := [value for value in draws if isinstance(value, int | float)])]
    if not known:
        others = [json.dumps(value) for value in every if value is not None and not isinstance(value, str)]
        return Figure(" ".join(others)) if others else None
    each = " ".join("/".join(map(number, draws)) for draws in values) if len(every) > 1 else ""
    partly = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    if len(values) == 1 < len(every) and len(known) == 1:  # draws tell about measurement, not about other models
        draws = [float(value) for value in every if isinstance(value, int | float)]
        return Figure(f"{mean_and_interval(over_seeds(draws))} this {'seed' if aimed else 'model'} only", each)
    return Figure(mean_and_interval(over_seeds(known)) + partly, each)


def _of_trials(values: Sequence[Sequence[Any]]) -> Figure | None:
    """How the trials of all models ended, and beneath it those of each model where there are several."""
    known = [[float(value) for value in trials if isinstance(value, int | float)] for trials in values]
    every = [value for trials in known for value in trials]
    if not every:
        return None
    each = " ".join(of_trials(trials, brief=True) for trials in known if trials) if len(known) > 1 else ""
    return Figure(trials_and_interval(every, over_trials(every)), each)


def _censored(cell: Cell, name: str) -> Figure | None:
    """Numbers of which some are only known to be greater than a limit: their median, never a mean of the others."""
    prefix = "undefended_" if name.startswith("undefended_") else ""
    limit = prefix + CENSORED[name.removeprefix(prefix)]
    pairs = [[(run.measures.get(name), run.measures.get(limit)) for run in runs] for runs in cell.seeds]
    flat = [pair for draws in pairs for pair in draws]
    if all(pair == (None, None) for pair in flat):
        return None
    each = " ".join("/".join(_bounded(*pair) for pair in draws) for draws in pairs)
    if len(flat) == 1 or (None, None) in flat:
        return Figure(each)
    # Draws attack one model, and so give one time; the median is then one over models.
    models = [_median(draws) for draws in pairs]
    only = " this model only" if len(models) == 1 else ""
    return Figure(f"KM median {_bounded(*_median(models))}{only}", each)


def _median(pairs: Sequence[tuple[float | None, float | None]]) -> tuple[float | None, float | None]:
    """The Kaplan-Meier median of times of which some are only known to be greater than a bound; or else that it is greater."""
    times = [bound if value is None else value for value, bound in pairs]
    median = kaplan_meier_median(times, [value is not None for value, _ in pairs])
    return (median, None) if median is not None else (None, max(times))


def _bounded(value: float | None, bound: float | None) -> str:
    return f">{number(bound)}" if value is None and bound is not None else number(value)
