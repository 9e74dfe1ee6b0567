"""What train, detect, evaluate and report say about a small world."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from testbed.api import AttackerResources, Defence, DefenderResources, Detector, Diverged, Examples, Invalid, Poison, Victim
from testbed.attack.backdoor import Backdoor
from testbed.attack.none import NoAttack
from testbed.defence.oracle_filter import OracleFilter
from testbed.defence.random_filter import RandomFilter
from testbed.files import read_json, seal
from testbed.identity import tensor_digest
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.pipeline.detect import detect
from testbed.pipeline.evaluate import evaluate
from testbed.pipeline.report import report
from testbed.record import Origin

from .conftest import World


def result(folder: Path) -> dict[str, Any]:
    return read_json(folder / "result.json")


def test_no_defence_is_the_undefended_victim_and_has_effectiveness_one_half(world: World) -> None:
    measures = result(world())["measures"]
    for name in ("clean_accuracy", "attack_success_rate", "robust_accuracy"):
        assert measures[name] == measures[f"undefended_{name}"]
    assert measures["defence_effectiveness"] == 0.5
    assert (
        measures["poison_rate_asked"] == 0.1 and measures["poison_rate_reached"] == measures["poison_rate_changed"] == 20 / 200
    )


def test_without_attack_the_attack_s_measures_are_null(world: World) -> None:
    found = result(world(attack=NoAttack()))
    assert found["measures"]["attack_success_rate"] is None and found["measures"]["defence_effectiveness"] is None
    assert found["counts"]["poisoned"] == 0 and "attack_success_rate" not in found["counts"]


def test_rate_zero_is_the_clean_baseline_with_its_exams(world: World) -> None:
    found = result(world(attack=replace(world.parts["attack"], poison_rate=0.0)))
    assert found["counts"]["poisoned"] == 0
    assert found["measures"]["attack_success_rate"] == found["measures"]["clean_twin_attack_success_rate"]


def test_exams_of_the_data_s_own_say_how_often_what_nobody_stamped_is_taken_for_the_target(world: World) -> None:
    test = world.splits.test
    others = test.labels[:60] != 0
    exams = {"worn": test.take(others.nonzero().flatten()), "mixed": test.take(torch.arange(60))}
    folder = world(data=replace(world.splits, exams=exams))
    found, stored = result(folder), load_file(folder / "answers.safetensors")
    assert found["counts"]["worn_attack_success_rate"] == int(others.sum()) == len(stored["worn.given"]) < 60
    assert "mixed_accuracy" in found["measures"] and "mixed_attack_success_rate" not in found["measures"]
    for prefix in ("", "undefended_", "clean_twin_"):
        given = stored[f"{prefix}worn.given"]
        assert found["measures"][f"{prefix}worn_attack_success_rate"] == (given == 0).double().mean().item()
        assert torch.equal(given, stored[f"{prefix}clean.given"][:60][others])
    without = result(world(data=replace(world.splits, exams=exams), attack=NoAttack()))["measures"]
    assert without["worn_accuracy"] > 0 and "worn_attack_success_rate" not in without


def test_filters_train_on_what_is_left(world: World) -> None:
    cards = {}
    for defence in (OracleFilter(), RandomFilter(0.25)):
        folder = world(defence=defence)
        mine = [name for name in world.made(folder) if read_json(world.outputs / name / "card.json")["rows"] < 200]
        cards[type(defence)] = read_json(world.outputs / mine[0] / "card.json")["rows"]
    assert cards == {OracleFilter: 180, RandomFilter: 150}


@dataclass(frozen=True)
class Constant(Detector):
    """Calls nothing suspicious."""

    judges: ClassVar[frozenset[str]] = frozenset({"rows", "queries"})
    value: float = 0.5

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        return torch.full((len(examples),), self.value)


@dataclass(frozen=True)
class Knows(Constant):
    """An oracle in disguise for rows; for queries it looks at the corner."""

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        return examples[torch.arange(len(examples))].inputs[:, 0, -3:, -3:].float().mean((1, 2))

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor | None:
        return scores == 255


def detecting(world: World, detector: Any) -> dict[str, Any]:
    parts = {name: value for name, value in world.parts.items() if name != "defence"}
    return result(detect(**parts, detector=detector))


def test_a_detector_of_rows_and_queries_is_measured_on_both(world: World) -> None:
    chance = detecting(world, Constant())["measures"]
    assert (chance["auroc"], chance["queries_auroc"], chance["false_alarm_rate"]) == (0.5, 0.5, None)
    found = detecting(world, Knows())
    measures, counts = found["measures"], found["counts"]
    assert (measures["auroc"], measures["queries_auroc"], measures["tpr_at_rule"], measures["fpr_at_rule"]) == (1, 1, 1, 0)
    assert measures["false_alarm_rate"] == 0 and counts["false_alarm_rate"] == 200
    assert counts["auroc"] == 200 and counts["queries_auroc"] == 2 * counts["attack_success_rate"]


def test_detection_measures_the_clean_twin_as_training_does(world: World) -> None:
    trained, found = result(world()), detecting(world, Constant())
    for name in ("clean_accuracy", "attack_success_rate", "robust_accuracy"):
        for kind in ("measures", "counts"):
            assert found[kind][f"clean_twin_{name}"] == trained[kind][f"clean_twin_{name}"]
            assert found[kind][name] == trained[kind][f"undefended_{name}"]


def test_a_detector_that_returns_nonsense_fails_alone(world: World) -> None:
    found = detecting(world, Constant(float("nan")))
    assert found["status"] == "failed" and "Constant.score must return one finite float a row" in found["reason"]


class Fails(Defence):
    """Does what it is told to."""

    def __init__(self, how: str) -> None:
        self.how = how

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        raise {"diverged": Diverged, "failed": ZeroDivisionError, "exit": SystemExit}[self.how]("as told")


@pytest.mark.parametrize(("how", "status"), [("diverged", "diverged"), ("failed", "failed"), ("exit", "failed")])
def test_a_failure_is_recorded_and_tried_again(world: World, how: str, status: str) -> None:
    folder = world(defence=Fails(how))
    assert result(folder)["status"] == status and "as told" in result(folder)["reason"]
    assert result(folder)["measures"] == {}
    assert world(defence=Fails(how)) == folder and world.made(folder) == []  # run again, on the victims that it had left


def test_bad_input_leaves_nothing_behind(world: World) -> None:
    with pytest.raises(Invalid, match=r"attack\.poison_rate=7"):
        world(attack=replace(world.parts["attack"], poison_rate=7.0))
    assert [path for path in world.outputs.rglob("*") if path.is_file() and ".locks" not in path.parts] == []


def test_stored_answers_give_the_recorded_rates_again(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world()
    answers = load_file(folder / "answers.safetensors")
    measures = result(folder)["measures"]
    assert answers["success.wanted"].double().mean().item() == measures["attack_success_rate"]
    assert answers["clean_twin_clean.correct"].double().mean().item() == measures["clean_twin_clean_accuracy"]
    parts = {name: value for name, value in world.parts.items() if name != "defence"}
    assert evaluate(**parts, runs=str(world.outputs)) == 0
    assert f"{measures['attack_success_rate']:.4f}" in capsys.readouterr().out


def test_a_saved_victim_measures_as_it_did(world: World) -> None:
    trained = world()
    measures = result(trained)["measures"]
    found = {}
    for name in world.made(trained):
        weights = str(world.outputs / name / "model.safetensors")
        model = partial(ImageVictim, network=partial(SmallCNN, width=4), weights=weights)
        parts = {key: value for key, value in world.parts.items() if key not in ("defence", "model")}
        again = result(evaluate(**parts, model=model, runs=None))["measures"]
        found[read_json(world.outputs / name / "card.json")["backdoored"]] = again["attack_success_rate"]
    assert found == {True: measures["attack_success_rate"], False: measures["clean_twin_attack_success_rate"]}


@pytest.fixture
def told(world: World, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def tell(**options: Any) -> str:
        capsys.readouterr()
        assert report(**{"runs": str(world.outputs), "paths": {}, "measures": None, "format": "csv", **options}) == 0
        return "".join(capsys.readouterr())

    return tell


def origin(seed: int, rate: float) -> Origin:
    config = {"seed": seed, "attack": {"poison_rate": rate}, "paths": {"outputs": f"/somewhere/{seed}"}}
    return Origin(config, names={"attack": "badnets", "defence": "none", "data": "digits", "model": "tiny"})


def test_a_row_a_cell_with_every_seed_and_none_mixed(world: World, told: Callable[..., str]) -> None:
    values = []
    for seed in (0, 1, 2):
        values.append(result(world(seed=seed, origin=origin(seed, 0.1)))["measures"]["clean_accuracy"])
    attack = replace(world.parts["attack"], poison_rate=0.2)
    other = world(attack=attack, origin=origin(0, 0.2))
    lines = [line for line in told(format="markdown").splitlines() if line.startswith("| digits")]
    assert len(lines) == 2 and lines[0].startswith("| digits | tiny | badnets | 0.1 | none | 3 |")
    assert " ".join(f"{value:.3f}" for value in values) in lines[0]
    run = read_json(other / "run.json")
    run["sources"]["testbed.fit"] = "another"
    twin = other.with_name(other.name + "x")
    other.rename(twin)
    (twin / "run.json").write_text(__import__("json").dumps({**run, "key": "old"}))
    seal(twin)
    world(attack=attack, origin=origin(0, 0.2))
    said = told(format="markdown")
    assert f"not counted, stale (its code or data were others): {twin.name}" in said and "| 0.2 | none | 1 |" in said


def test_runs_that_are_not_done_are_named_and_not_counted(world: World, told: Callable[..., str]) -> None:
    world()
    bad = world(defence=Fails("failed"))
    said = told(format="table")
    assert re.search(rf"not counted, failed: {bad.name}: defence \S+Fails \(\S+, line \d+\): ZeroDivisionError: as told", said)
    assert yaml.safe_load((bad / "config.yaml").read_text()) == {}


def test_no_runs_is_said(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="there is no finished run below it"):
        report(runs=str(tmp_path), paths={}, measures=None, format="table")


@dataclass(frozen=True)
class Peeks(Constant):
    """Notes what a judge of queries is shown beside the images."""

    judges: ClassVar[frozenset[str]] = frozenset({"queries"})
    seen: list[Tensor] = field(default_factory=list)

    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        batch = examples[torch.arange(len(examples))]
        self.seen.append(torch.stack([batch.labels, (batch.inputs[:, 0, -3:, -3:] == 255).all(2).all(1).long()]))
        return torch.zeros(len(examples))


def test_queries_come_without_answers_and_in_no_telling_order(world: World) -> None:
    peeks = Peeks()
    detecting(world, peeks)
    labels, triggered = peeks.seen[0]
    assert (labels == -1).all() and int(triggered.sum()) == len(triggered) // 2
    assert 0.3 < triggered[: len(triggered) // 2].double().mean() < 0.7  # 90 of 180 by lot: sd .037


class InPlace(Defence):
    """Works on the very victim that it is given."""

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        with torch.no_grad():
            victim.groups["penultimate"][0].module.weight.zero_()
        return victim


def test_a_defence_that_works_in_place_is_found_out(world: World) -> None:
    found = result(world(defence=InPlace()))
    assert found["status"] == "failed" and not found["measures"]
    assert "InPlace (test_measures.py): after_training changed the model that it is given" in found["reason"]


class Greedy(Backdoor):
    """Stamps what it is shown, in place."""

    def poison(self, resources: AttackerResources) -> Poison:
        resources.train[torch.arange(len(resources.train))].inputs[..., :4] = 255
        return super().poison(resources)

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        test[torch.arange(len(test))].inputs[:] = 0
        return super().triggered_tests(test, resources)


def like(kind: type[Backdoor], world: World) -> Backdoor:
    return kind(**{name: getattr(world.parts["attack"], name) for name in ("trigger", "label", "poison_rate", "target_label")})


def test_an_attack_cannot_change_the_clean_rows(world: World) -> None:
    before = [tensor_digest(part.inputs) for part in (world.splits.train, world.splits.test)]
    greedy = Greedy(
        **{name: getattr(world.parts["attack"], name) for name in ("trigger", "label", "poison_rate", "target_label")}
    )
    measures = result(world(attack=greedy))["measures"]
    assert measures["clean_twin_clean_accuracy"] == result(world())["measures"]["clean_twin_clean_accuracy"]
    assert before == [tensor_digest(part.inputs) for part in (world.splits.train, world.splits.test)]


class Asks(Backdoor):
    """Asks a surrogate without having said so."""

    def poison(self, resources: AttackerResources) -> Poison:
        resources.fresh()
        return super().poison(resources)


def test_a_surrogate_must_be_declared(world: World) -> None:
    assert "uses_surrogate" in result(world(attack=like(Asks, world)))["reason"]


def test_runs_on_other_data_are_not_averaged(world: World, told: Callable[..., str]) -> None:
    old = [world(seed=0), world(seed=1)]
    world(seed=2, data=replace(world.splits, train=world.splits.train.take(torch.arange(200).flip(0))))
    said = told(format="markdown")
    assert "| 1 |" in said.splitlines()[4]
    assert all(f"stale (its code or data were others): {run.name}" in said for run in old)


def test_runs_are_found_below_folders_whose_names_begin_with_a_dot(world: World, told: Callable[..., str]) -> None:
    hidden = replace(world, outputs=world.outputs.parent / ".cache" / ".." / ".cache" / "runs")
    folder = hidden()
    assert told(runs=str(hidden.outputs)).count("\n") == 2 and folder.is_dir()
