"""Every pipeline up to where it would begin to train: what it checks is checked, and nothing is made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

from testbed.data import digits
from testbed.error import Unsupported, component
from testbed.launcher import doctor
from testbed.pipeline import audit, check, degrade, detect, evaluate, train, tune
from testbed.pipeline.ground import Ground
from testbed.pipeline.readiness import require_ready
from testbed.pipeline.scene import Scene
from testbed.record import Identity, Origin, Outcome, Workspace
from testbed.words import Refused


def passed(*_: Any, **__: Any) -> NoReturn:
    """It would run: exit code 0, and nothing was run."""
    raise Refused("all is well so far", 0)


def recorded(identity: Identity, outputs: Path, origin: Origin, work: Callable[..., Outcome], say: Any = print) -> NoReturn:
    """What a run does before it trains; what does not apply would be recorded as skipped."""
    with contextlib.suppress(Unsupported):
        work(Workspace(outputs))
    passed()


def measured(scene: Scene, method: Any) -> NoReturn:
    """The checks of `train`, `detect` and `tune`."""
    scene.trainer.check()
    with component("attack"):
        scene.attack.check(scene.attacker)
    if scene.data.task.kind != "chat":  # whose models are trained before anybody attacks them
        scene.fresh()
    if hasattr(method, "check"):
        with component("defence"):
            method.check(scene.defender(scene.data.train, True))
    passed()


def degraded(ground: Ground, name: str) -> NoReturn:
    """Those of `degrade`."""
    require_ready(ground)
    passed()


@contextlib.contextmanager
def checks_only() -> Iterator[pytest.MonkeyPatch]:
    """Inside, no verb trains, measures, reads a stranger's file or asks PyTorch for its GPUs; the digits are read once."""
    with pytest.MonkeyPatch.context() as patch:
        for pipeline in (train, detect, degrade, tune):
            patch.setattr(pipeline, "recorded", recorded)
        for pipeline in (train, tune):
            patch.setattr(pipeline, "measured", measured)
        patch.setattr(detect, "_measured", measured)
        patch.setattr(degrade, "_measured", degraded)
        patch.setattr(evaluate, "recorded", passed)
        patch.setattr(check, "Ground", passed)
        patch.setattr(audit, "read", passed)
        patch.setattr(doctor, "pytorch", lambda: iter(()))
        patch.setattr(digits, "stored", cache(digits.stored))
        yield patch
