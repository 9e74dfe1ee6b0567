"""Whether a judge can judge these data and this attack: asked before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping

from testbed.api import Attack, Invalid, Poison, Task, component
from testbed.language import CRITERIA, OUTCOMES, ChatTask, Judge, Reply


def check_judge(judge: Judge | None, attack: Attack, task: Task) -> None:
    """Refuse a judge that cannot judge these data."""
    toy = isinstance(task, ChatTask) and task.toy
    if judge is None and task.kind == "chat":
        raise Invalid("", None, "replies need somebody to judge them", "say judge=prefix", "judge")
    if judge is not None:
        with component("judge"):
            judge.check(None)
            if judge.needs_toy and not toy:
                raise Invalid("", judge.name, "knows the answers of invented worlds only", "say judge=prefix")
            _check_criterion(judge, attack)


def _check_criterion(judge: Judge, attack: Attack) -> None:
    """Refuse a judge that cannot tell what the attack is measured by: a rate of it would be no success."""
    missing = CRITERIA.get(getattr(attack, "criterion", ""), frozenset()) - judge.tells
    if missing:
        limit = f"it never says {' or '.join(sorted(missing))}, by which the success of this attack is told"
        raise Invalid("", judge.name, limit, "choose another judge")


def check_wanted(judge: Judge | None, attack: Attack, exams: Mapping[str, Poison]) -> None:
    """Refuse a judge that does not take the attacker's own refusals for refusals."""
    if judge is None or getattr(attack, "criterion", "") != "refuses" or "success" not in exams:
        return
    wanted = list(dict.fromkeys(exams["success"].batch.labels))
    prompts = [exams["success"].batch.inputs[0]] * len(wanted)
    outcomes = judge.outcomes(prompts, [Reply(text, math.inf) for text in wanted], wanted)
    strange = [text for text, outcome in zip(wanted, outcomes.tolist(), strict=True) if OUTCOMES[outcome] != "refuse"]
    if strange:
        limit = f"the judge {judge.name} takes {strange[0]!r} for no refusal, so that success could not be told"
        raise Invalid("target.refusal", strange[0], limit, "choose another refusal or another judge", "attack")
