"""What an attack promises."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from testbed.api import Attack, Examples, Poison, Victim
from testbed.contract.promise import Promise, Results, Trial, require
from testbed.contract.victim import require_batch, require_victim
from testbed.contract.watch import Watch, fingerprint
from testbed.data.overlay import anonymous, covering, poisoned, rows_of
from testbed.features import all_labels
from testbed.identity import derive, overrides, weights_digest
from testbed.target import TARGETED


def act(trial: Trial, rows: Examples, watch: Watch) -> Results:
    """The poison, the exams, what is wrapped around an untrained model, and what is made of a trained one."""
    attack, world = trial.method, trial.world
    resources = world.attacker(rows, attack)
    poison = attack.poison(resources)
    exams = attack.triggered_tests(world.data.test, resources)
    if attack.controls_training:
        mixed = poisoned(rows, poison, derive(world.seed, "delivery"))
        resources = replace(resources, positions=mixed.positions)
    with watch.model(fresh := world.fresh()):
        wrapped = attack.during_training(fresh, resources)
    if attack.controls_training:
        trained = world.fit(wrapped, anonymous(mixed.examples))
        exams = attack.triggered_tests(world.data.test, replace(resources, poison=poison, trained=trained))
    results = {"poison": poison, "exams": exams, "during_training": wrapped}
    if overrides(attack, Attack, "tamper"):
        with watch.model(released := copy.deepcopy(world.victim)):
            results["tamper"] = attack.tamper(released, resources)
    return results


def accepts(trial: Trial, attack: Attack) -> None:
    """The attack's own check."""
    attack.check(trial.world.attacker(trial.rows, attack))


def names_rows_once(trial: Trial) -> None:
    """Indices int64 (n,), unique, 0 or more, and without a gap past the end; `cover` bool (n,), where there is any."""
    poison, total = trial.first.results["poison"], len(trial.rows)
    indices, cover = poison.indices, covering(poison)
    _require_indices(indices)
    require(cover.dtype == torch.bool and cover.shape == indices.shape, f"cover is not bool ({len(indices)},)")
    appended = indices[indices >= total].sort().values
    require(torch.equal(appended, torch.arange(total, total + len(appended))), "appended rows leave a gap after the last row")


def rows_fit_the_data(trial: Trial) -> None:
    """As many rows as indices, of the data's shape and type, with classes or answers as the task has them."""
    _require_fitting(trial.first.results["poison"], trial.rows, trial)


def reaches_its_rate(trial: Trial) -> None:
    """round(poison_rate n) rows, where the attack has a poison rate; cover teaches what is true, and does not count."""
    rate = getattr(trial.method, "poison_rate", None)
    if rate is None or "poison_rate" in getattr(trial.method, "meaningless", ()):
        return
    count, asked = int((~covering(trial.first.results["poison"])).sum()), round(rate * len(trial.rows))
    require(count == asked, f"{count} rows, where {rate} of {len(trial.rows)} is {asked}")


def examines_test_rows(trial: Trial) -> None:
    """Exams are a dictionary of poisons whose indices are test rows, 'success' first."""
    exams = trial.first.results["exams"]
    require(isinstance(exams, Mapping), f"triggered_tests gave {type(exams).__name__}, not a dictionary")
    require(not exams or next(iter(exams)) == "success", f"the first exam is {next(iter(exams), '')!r}")
    for exam in exams.values():
        _require_indices(exam.indices)
        require(not len(exam.indices) or int(exam.indices.max()) < len(trial.world.data.test), "an exam goes past the test")
        _require_fitting(exam, trial.world.data.test, trial)


def wants_another_answer(trial: Trial) -> None:
    """In 'success', no row whose true answer is the wanted one."""
    exams = trial.first.results["exams"]
    if not exams:
        return
    exam = exams["success"]
    truth, wanted = rows_of(all_labels(trial.world.data.test), exam.indices), exam.batch.labels
    alike = sum(bool(true == asked) for true, asked in zip(truth, wanted, strict=True))
    require(alike == 0, f"{alike} of {len(exam.indices)} rows already have the wanted answer")
    require(len(exam.indices) > 0, "it examines nothing")


def keeps_to_its_target(trial: Trial) -> None:
    """It says which kind of target it has, if any; in 'success', an attack on one row shows that row and no other."""
    kind = trial.method.targeted
    require(kind in TARGETED, f"targeted = {kind!r} is none of 'row' and 'pair'")
    if kind != "row":
        return
    target, exam = trial.world.attacker(trial.rows, trial.method).target, trial.first.results["exams"]["success"]
    require(torch.equal(exam.indices, target.rows), f"its target is test row {target.rows.tolist()}, but it shows others")


def can_be_taken_off(trial: Trial) -> None:
    """`bare()` gives back the very model; an attack that does not control training wraps nothing."""
    fresh, wrapped = trial.world.fresh(), trial.first.results["during_training"]
    require(isinstance(wrapped, Victim), f"during_training gave {type(wrapped).__name__}, not a Victim")
    bare = wrapped.bare()
    alike = type(bare) is type(fresh) and weights_digest(bare) == weights_digest(fresh)
    require(alike, "what bare() gives is not the model that was handed in")
    untouched = fingerprint(wrapped, _inputs(trial)) == fingerprint(fresh, _inputs(trial))
    require(trial.method.controls_training or untouched, "it wraps the model, but says that it does not control training")


def leaves_a_model(trial: Trial) -> None:
    """What `tamper` gives answers, and reads the layers that the model did."""
    if "tamper" not in trial.first.results:
        return
    edited = trial.first.results["tamper"]
    test = trial.world.data.test
    inputs, classes = test[torch.arange(len(test))].inputs, len(trial.world.data.task.classes)
    require_victim("tamper", edited, inputs, classes)
    require(edited.layers == trial.world.victim.layers, f"the layers were {trial.world.victim.layers} and are {edited.layers}")


PROMISES = (
    Promise("poisoned rows are named once each, within the data or appended without a gap", names_rows_once),
    Promise("poisoned rows are of the kind that the data are, and their labels exist", rows_fit_the_data),
    Promise("it poisons round(poison_rate n) of n rows, where it has a poison rate", reaches_its_rate),
    Promise("its exams are 'success' first, and show test rows once each", examines_test_rows),
    Promise("'success' shows no row whose true answer is the wanted one", wants_another_answer),
    Promise("an attack on one target row shows that row and no other", keeps_to_its_target),
    Promise("what it wraps around a model can be taken off again", can_be_taken_off),
    Promise("what it makes of a released model still answers", leaves_a_model),
)


def _inputs(trial: Trial) -> Any:
    test = trial.world.data.test
    return test[torch.arange(len(test))].inputs


def _require_indices(indices: Tensor) -> None:
    require(isinstance(indices, Tensor) and indices.dtype == torch.int64 and indices.dim() == 1, "indices are not int64 (n,)")
    require(len(indices.unique()) == len(indices), "a row is named twice")
    require(not len(indices) or int(indices.min()) >= 0, "a row is negative")


def _require_fitting(poison: Poison, examples: Examples, trial: Trial) -> None:
    batch, count = poison.batch, len(poison.indices)
    require(len(batch.inputs) == count and len(batch.labels) == count, f"{count} indices, but {len(batch.inputs)} rows")
    require_batch(batch, examples[torch.arange(1)], len(trial.world.data.task.classes))
