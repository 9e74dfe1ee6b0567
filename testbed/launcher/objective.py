"""From the runs of a trial to its verdict: a score by a declared objective, or the reason why there is none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from testbed.launcher.study import Verdict
from testbed.plan import Request


class Ran(NamedTuple):
    """A run of a trial: what was asked for, what `result.json` says, and its folder."""

    request: Request
    result: Mapping[str, Any]
    folder: str


def judged(kind: str, loss: float | None, ran: Sequence[Ran]) -> Verdict:
    """The score of a trial all of whose runs ended.

    A defence: the mean over runs of DER, or with a declared `loss` of the attack success rate, where
    loss >= mean(clean accuracy undefended - defended). An attack: min over methods of its mean success under them, where
    loss >= mean(clean accuracy of the clean twin - of the undefended victim).
    """
    done = [run for run in ran if run.result["status"] == "done"]
    unfit = next((run for run in ran if run.result["status"] != "done" and (kind == "defence" or not _is_skipped(run))), None)
    if unfit is not None or not done:
        why = unfit or ran[0]
        return Verdict(why.result["status"], f"{why.request.label}: {why.result.get('reason')}", runs=_folders(ran))
    name = "defence_effectiveness" if kind == "defence" and loss is None else "attack_success_rate"
    before, after = ("undefended_", "") if kind == "defence" else ("clean_twin_", "undefended_")
    for run in done:
        for measure in (name, f"{before}clean_accuracy", f"{after}clean_accuracy"):
            if run.result["measures"].get(measure) is None:
                return Verdict("unmeasured", f"{run.request.label}: {measure} is undefined", runs=_folders(ran))
    parts = _means(done, name, "attack" if kind == "defence" else "method")
    value = min(parts.values()) if kind == "attack" else _mean(done, name)
    lost = fmean(_measure(run, f"{before}clean_accuracy") - _measure(run, f"{after}clean_accuracy") for run in done)
    counts = {"success": _least(done, "attack_success_rate"), "clean": _least(done, "clean_accuracy")}
    excess = None if loss is None else round(lost - loss, 9)
    told = {"value": value, "excess": excess, "parts": {**parts, "clean accuracy lost": lost}, "counts": counts}
    if excess is not None and excess > 0:
        return Verdict("infeasible", f"clean accuracy lost {lost:.4f} > {loss:g}", runs=_folders(ran), **told)
    return Verdict("done", _left_out(ran), runs=_folders(ran), **told)


def weak(ran: Sequence[Ran]) -> list[str]:
    """Attacks that, undefended, are not 10 points above their clean twin: nothing can be learnt from defeating them."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in ran:
        measures = run.result["measures"]
        if measures.get("undefended_attack_success_rate") is not None:
            found[run.request.attack].append(
                measures["undefended_attack_success_rate"] - measures["clean_twin_attack_success_rate"]
            )
    return [attack for attack, gains in found.items() if fmean(gains) < 0.1]


def _is_skipped(run: Ran) -> bool:
    return run.result["status"] == "skipped"


def _left_out(ran: Sequence[Ran]) -> str:
    """Methods that cannot be set against the attack, and so have no say."""
    skipped = {run.request.method: run.result.get("reason") for run in ran if _is_skipped(run)}
    return "; ".join(f"without {method}: {reason}" for method, reason in skipped.items())


def _means(done: Sequence[Ran], name: str, axis: str) -> dict[str, float]:
    groups: dict[str, list[Ran]] = defaultdict(list)
    for run in done:
        groups[getattr(run.request, axis)].append(run)
    return {label: _mean(runs, name) for label, runs in groups.items()}


def _mean(done: Sequence[Ran], name: str) -> float:
    return fmean(_measure(run, name) for run in done)


def _measure(run: Ran, name: str) -> float:
    return float(run.result["measures"][name])


def _least(done: Sequence[Ran], name: str) -> int:
    return min(int(run.result["counts"][name]) for run in done)


def _folders(ran: Sequence[Ran]) -> list[str]:
    return [run.folder for run in ran]
