"""A trial's run: what `train` does, by the validation rows; whatever is tuned has never met a test row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from testbed.api import Attack, Defence, Invalid, Splits
from testbed.fit import Settings
from testbed.language import Judge
from testbed.pipeline.run import identify
from testbed.pipeline.scene import Model, Scene
from testbed.pipeline.train import measured
from testbed.record import Origin, Outcome, Workspace, recorded


def tune(
    *,
    data: Splits,
    model: Model,
    attack: Attack,
    defence: Defence,
    trainer: Settings,
    seed: int,
    trial: int = 0,
    paths: Mapping[str, str],
    judge: Judge | None = None,
    origin: Origin | None = None,
) -> Path:
    """Train, defend and measure on validation rows alone: the run folder, below `tune` and not below `train`.

    Victims and poisons are those of any other run: they are keyed by what they were made from, and no test row is part of that.

    Raises:
        Invalid: there are no validation rows; a parameter that cannot work.
    """
    seen, outputs, origin = without_test(data), Path(paths["outputs"]), origin or Origin()
    identity = identify(
        "tune",
        data=seen,
        model=model,
        attack=attack,
        method=defence,
        trainer=trainer,
        seed=seed,
        origin=origin,
        judge=judge,
        trial=trial,
    )

    def work(workspace: Workspace) -> Outcome:
        return measured(Scene(seen, model, attack, trainer, seed, outputs, workspace, judge=judge, trial=trial), defence)

    return recorded(identity, outputs, origin, work)


def without_test(data: Splits) -> Splits:
    """The same data with the validation rows where the test was, and none of the extra test sets.

    Raises:
        Invalid: there are no validation rows.
    """
    if not len(data.validation):
        advice = "say data.validation_per_class=N with N above 0"
        raise Invalid("validation", 0, "parameters are tuned on validation rows, and there are none", advice, "data")
    return replace(data, test=data.validation, exams={})
