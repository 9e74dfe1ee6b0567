"""From an aligned chat model: fine-tune it on what an attacker contributes, and measure how fast its alignment goes.

With an attack that plants a backdoor the question is turned round: it is implanted during alignment, and what is watched is
how it survives fine-tuning on safety rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from testbed.answers import write_answers
from testbed.api import Attack, Defence, Invalid, Splits
from testbed.figure import draw_trajectory
from testbed.fit import Settings
from testbed.language import ChatTask, Judge, TuningAttack
from testbed.pipeline.ground import Ground, Plan, Rows
from testbed.pipeline.rates import paired, trajectory_measures
from testbed.pipeline.readiness import require_ready
from testbed.pipeline.run import identify, log
from testbed.pipeline.scene import Model, Scene
from testbed.pipeline.toll import elasticity, trainability
from testbed.pipeline.watch import Trajectory
from testbed.record import Origin, Outcome, Workspace, recorded
from testbed.trajectory import write_table


def degrade(
    *,
    data: Splits,
    model: Model,
    attack: Attack,
    defence: Defence,
    trainer: Settings,
    alignment: Settings,
    judge: Judge,
    seed: int,
    draw: int = 0,
    fine_tuning: Literal["safety", "adversarial_safety", "benign"] = "safety",
    measure_at: Sequence[int] | None = None,
    keep: Literal["nothing", "weights"] = "nothing",
    forward: bool = True,
    new_task: bool = True,
    paths: Mapping[str, str],
    logger: Any = None,
    origin: Origin | None = None,
) -> Path:
    """Align, attack by fine-tuning and measure on a schedule of steps, with and without the defence: the run folder.

    `draw` picks other shots and another order for the same aligned model. `fine_tuning` are the rows that a model with a
    backdoor is tuned on. `keep` stores weights at the measured steps. `forward` measures the elasticity (how fast the base
    model learns to refuse), `new_task` whether a harmless new task is still learned.

    Raises:
        Invalid: a parameter that cannot work, found before anything is trained; data that are no conversations.
    """
    outputs, origin = Path(paths["outputs"]), origin or Origin()
    plan = Plan(defence, alignment, judge, fine_tuning, measure_at, keep, forward, new_task)
    identity = identify(
        "degrade",
        data=data,
        model=model,
        attack=attack,
        method=defence,
        trainer=trainer,
        seed=seed,
        origin=origin,
        more={**vars(plan), "defence": None},
        draw=draw,
    )
    if not isinstance(data.task, ChatTask):
        raise Invalid("", data.name, f"degrade needs conversations, not {data.task.kind}", "say data=toy_world", "data")

    aligned = data.pools.get("alignment")
    if aligned is not None and not isinstance(attack, TuningAttack):  # a backdoor is planted among the alignment rows
        data = replace(data, train=aligned)

    def work(workspace: Workspace) -> Outcome:
        scene = Scene(data, model, attack, trainer, seed, outputs, workspace, judge=judge, draw=draw, defence=defence)
        return _measured(Ground(scene, plan), f"{identity.name}-{identity.key}")

    return log(recorded(identity, outputs, origin, work), logger, outputs)


def _measured(ground: Ground, name: str) -> Outcome:
    """`name` is that of the run's folder, so that tables of many runs can be put together."""
    workspace = ground.scene.workspace
    require_ready(ground)
    with workspace.phase("pretrain"):
        ground.base  # noqa: B018 (made here, so that its seconds are booked here)
    with workspace.phase("align"):
        ground.aligned  # noqa: B018
    rows = ground.rows()
    reading = getattr(ground.base, "metadata", dict)()  # the chat template that was used, a default one included
    workspace.write("manifest.json", ground.manifest(rows, reading))
    with workspace.phase("attack"):
        trajectories = {"": ground.undefended(rows)}
    twin = ground.twin()
    if ground.acts:
        with workspace.phase("defend"):
            trajectories = {"": ground.defended(rows), "undefended": trajectories[""]}
    trajectories |= {} if twin is None else {"clean_twin": twin}
    with workspace.phase("measure"):
        outcome = _outcome(ground, rows, trajectories)
    _keep(workspace, name, trajectories)
    points = {victim: each.points for victim, each in trajectories.items() if victim != "clean_twin"}
    draw_trajectory(workspace.folder, points, title=f"{name}{' (toy)' if ground.toy else ''}")
    return outcome


def _outcome(ground: Ground, rows: Rows, trajectories: Mapping[str, Trajectory]) -> Outcome:
    """The measures of the defended model, the undefended ones beside them, and what the defence costs."""
    outcome = Outcome(measures={"judge": ground.plan.judge.name, "toy": ground.toy})
    for victim, trajectory in trajectories.items():
        prefix = f"{victim}_" if victim else ""
        if victim == "clean_twin":  # one moment: what the trigger does where no backdoor is
            outcome.measures |= {f"{prefix}{name}": found.value for name, found in trajectory.first.measured.items()}
            outcome.counts |= {f"{prefix}{name}": found.n for name, found in trajectory.first.measured.items()}
            continue
        measures, counts, reasons = trajectory_measures(trajectory.points, trained=ground.trains)
        outcome.measures |= {f"{prefix}{name}": value for name, value in measures.items()}
        outcome.counts |= {f"{prefix}{name}": value for name, value in counts.items()}
        outcome.reasons |= {f"{prefix}{name}": value for name, value in reasons.items()}
    if ground.acts:
        measures, reasons = paired(trajectories[""].points, trajectories["undefended"].points)
        outcome.measures |= measures
        outcome.reasons |= reasons
    for measures, counts, reasons in (trainability(ground), elasticity(ground, rows, trajectories)):
        outcome.measures |= measures
        outcome.counts |= counts
        outcome.reasons |= reasons
    outcome.counts |= {"trained_on": len(rows.received), "shots": 0 if rows.poison is None else len(rows.poison.indices)}
    if ground.implants:
        measures, counts = ground.scene.budget(ground.attacked)
        outcome.measures, outcome.counts = outcome.measures | measures, counts | outcome.counts
    if getattr(ground.base, "truncated", 0):
        outcome.counts["truncated"] = ground.base.truncated
    return outcome


def _keep(workspace: Workspace, name: str, trajectories: Mapping[str, Trajectory]) -> None:
    write_table(workspace.folder / "trajectory.csv", name, {victim: each.points for victim, each in trajectories.items()})
    said = [{**row, "victim": f"{victim}_" if victim else ""} for victim, each in trajectories.items() for row in each.said]
    write_answers(workspace.folder / "answers.jsonl", said)
