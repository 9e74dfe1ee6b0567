"""Look into one attacked model: pictures with the numbers that they show. Nothing is compared, and no defence sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from testbed.api import Attack, Defence, Splits, Unsupported
from testbed.data.overlay import anonymous
from testbed.figure import draw_gallery
from testbed.fit import Settings
from testbed.language import Judge
from testbed.metrics import rates
from testbed.picture.activation_change import activation_change
from testbed.picture.features import features
from testbed.picture.grad_cam import grad_cam
from testbed.picture.pruning import pruning
from testbed.picture.stealth import stealth
from testbed.picture.view import Measures, View
from testbed.pipeline.run import identify, log
from testbed.pipeline.scene import Model, Scene
from testbed.pipeline.train import answered, fought
from testbed.record import Origin, Outcome, Workspace, recorded

PICTURES: Mapping[str, Callable[[View], Measures]] = {
    "features": features,
    "activation_change": activation_change,
    "grad_cam": grad_cam,
    "stealth": stealth,
    "pruning": pruning,
}


def picture(
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
    logger: Any = None,
    origin: Origin | None = None,
) -> Path:
    """Train a victim as `train` does, the same one, and draw what a backdoor looks like in it: the run folder.

    `trial` is that of the run of `train`, of an attack that is `targeted`.

    Raises:
        Invalid: a parameter that cannot work, found before anything is trained.
    """
    outputs, origin = Path(paths["outputs"]), origin or Origin()
    identity = identify(
        "picture",
        data=data,
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
        return _drawn(
            Scene(data, model, attack, trainer, seed, outputs, workspace, judge=judge, trial=trial, defence=defence), defence
        )

    return log(recorded(identity, outputs, origin, work), logger, outputs)


def _drawn(scene: Scene, defence: Defence) -> Outcome:
    workspace = scene.workspace
    attacked, _, victim = fought(scene, defence)
    with workspace.phase("measure"):
        measures, counts = rates(answered(victim, scene, attacked.exams))
    view = View(
        *(workspace.folder, victim, attacked.received, attacked.mixed.flags, scene.data.train, attacked.poison),
        *(scene.data.test, attacked.exams.get("success"), anonymous(scene.data.reserve), scene.seed),
    )
    left_out = []
    with workspace.phase("draw"):
        for name, draw in PICTURES.items():
            try:
                measures |= draw(view)
            except Unsupported as reason:
                left_out.append(f"{name}: {reason}")
        draw_gallery(workspace.folder, scene.data.test, attacked.exams)
    return Outcome(measures={**measures, "left_out": left_out}, counts=counts)
