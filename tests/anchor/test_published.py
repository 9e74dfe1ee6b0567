"""How runs are set beside published numbers, with made-up run folders: what is compared, and what never is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pipeline.left import leave

from testbed.data.torchvision_sets import torchvision_set
from testbed.files import read_json
from testbed.identity import examples_digest
from testbed.index import Entry, write
from testbed.pipeline.gather import Run, gathered
from testbed.plan import Choice, Request, planned, store
from testbed.suite import Suite

from .published import MEASURES, SUITES, TORCHVISION, Anchor, anchors, beside, declared, unofficial

PART: dict[str, Any] = {"attacks": ("badnets",), "names": ("none",), "rates": (0.1,)}
DATA = {"_target_": TORCHVISION, "kind": "CIFAR10", "mean": [0.5], "std": [0.5], "augmentation": "none"}
ANCHOR = Anchor(0.1, "badnets", "none", "clean_accuracy", 91.32)


def official(run: Run) -> str:
    return ""


def outputs(
    root: Path,
    *accuracies: float,
    suite: Suite | None = None,
    name: str = SUITES[0],
    data: dict[str, Any] | None = None,
    **choice: Any,
) -> Path:
    """A part of a suite, the declared one of this name if none is given; every run has the accuracy of its seed."""
    chosen = {**PART, "seeds": tuple(range(len(accuracies))), **choice}
    plan = planned(suite or declared(name), Choice(**chosen))
    store(plan, [], root)
    for request in plan.requests:
        _leave(root, request, accuracies[min(request.seed, len(accuracies) - 1)], DATA if data is None else data)
    return root


def _leave(root: Path, request: Request, accuracy: float, data: dict[str, Any]) -> None:
    names = {"data": "cifar10", "model": "preact_resnet18", "attack": request.attack, "defence": request.method}
    measures = {"clean_accuracy": accuracy, "attack_success_rate": None}
    place = leave(root, seed=request.seed, names=names, measures=measures, settings={"data": data})
    write(root, request.key, Entry("done", folder=place.relative_to(root).as_posix()))


def test_the_list_is_short_and_each_number_is_a_percentage_with_a_tolerance() -> None:
    found = anchors()
    assert 20 <= len(found) <= 40 and {anchor.measure for anchor in found} == set(MEASURES) and ANCHOR in found
    assert all(0 <= anchor.value <= 100 and anchor.tolerance <= 8 for anchor in found)
    assert len({str(anchor) for anchor in found}) == len(found)


@pytest.mark.parametrize(
    ("value", "measure", "tolerance"),
    [
        (91.3, "clean_accuracy", 1),
        (95.0, "attack_success_rate", 2),
        (50.1, "attack_success_rate", 8),
        (1.2, "attack_success_rate", 2),
    ],
)
def test_success_between_the_ends_is_allowed_more(value: float, measure: str, tolerance: float) -> None:
    assert Anchor(0.1, "badnets", "none", measure, value).tolerance == tolerance


def test_the_mean_over_seeds_is_compared_within_the_tolerance(tmp_path: Path) -> None:
    found = beside(ANCHOR, outputs(tmp_path / "near", 0.92, 0.9260), official)
    assert found.ours == pytest.approx(92.3) and found.n == 2 and found.agrees
    far = beside(ANCHOR, outputs(tmp_path / "far", 0.92, 0.9270), official)
    assert not far.agrees and str(far) == "92.35 (n = 2), published 91.32 ± 1"


def test_nothing_but_the_suites_own_runs_is_compared(tmp_path: Path) -> None:
    other = outputs(tmp_path / "other", 0.92, name=SUITES[1])
    assert beside(ANCHOR, other, official, SUITES[1]).n == 1
    loose = tmp_path / "loose"
    leave(loose, names={"data": "cifar10", "model": "preact_resnet18"}, measures={"clean_accuracy": 0.92})
    changed = outputs(tmp_path / "changed", 0.92, settings=("trainer.max_epochs=1",))
    further = outputs(tmp_path / "further", 0.92, seeds=(7,))
    for root in (other, loose, changed, further):
        found = beside(ANCHOR, root, official)
        assert (
            found.ours is None
            and not found.agrees
            and str(found).startswith("not run: no finished run of this cell of the suite images_cifar10 ")
        )
    elsewhere = outputs(tmp_path / "elsewhere", 0.92, settings=("data.root=elsewhere", "trainer.accelerator=gpu"))
    assert beside(ANCHOR, elsewhere, official).n == 1
    undefined = beside(ANCHOR._replace(measure="attack_success_rate"), outputs(tmp_path / "whole", 0.92), official)
    assert str(undefined) == "not run: attack_success_rate is undefined in these runs"


def test_another_declaration_of_the_same_name_is_another_suite(tmp_path: Path) -> None:
    other = declared(SUITES[0]).model_copy(update={"clean_budget": "none at all"})
    found = beside(ANCHOR, outputs(tmp_path, 0.9132, suite=other), official)
    assert found.ours is None and "no finished run of this cell of the suite images_cifar10 " in str(found)


@pytest.mark.parametrize("source", ["testbed.data.image_folder.image_folder", "testbed.data.arrays.arrays"])
def test_a_copy_of_the_images_is_never_compared(tmp_path: Path, source: str) -> None:
    found = beside(ANCHOR, outputs(tmp_path, 0.9132, data={"_target_": source, "root": "cifar10_jpeg"}), unofficial)
    assert found.ours is None and f"was made from {source}, not from the official files of CIFAR10" in str(found)


def test_without_the_official_files_nothing_is_compared(tmp_path: Path) -> None:
    asked = {**DATA, "root": str(tmp_path / "nowhere"), "validation_per_class": 100, "reserve_per_class": 250}
    found = beside(ANCHOR, outputs(tmp_path / "runs", 0.9132, data=asked), unofficial)
    assert found.ours is None and str(found).startswith("not run: the official files of CIFAR10 are not there")


@pytest.mark.real_data
def test_rows_are_recognised_by_their_digest(tmp_path: Path) -> None:
    """By another official set that can be had: a run counts if its rows have the digest of those in the files, or else not."""
    root = os.environ["TESTBED_DATA"]
    told = {"kind": "FashionMNIST", "validation_per_class": 10, "reserve_per_class": 10}
    asked = {**DATA, **told, "root": root}
    digest = examples_digest(torchvision_set(**{name: value for name, value in asked.items() if name != "_target_"}).train)
    elsewhere = {**asked, "root": "/not/here"}
    leave(tmp_path, settings={"data": elsewhere}, contents={"train": digest}, measures={"clean_accuracy": 0.9})
    leave(tmp_path, settings={"data": elsewhere}, contents={"train": "other"}, measures={"clean_accuracy": 0.9}, seed=1)
    same, other = sorted(gathered(tmp_path, ("train",)).runs, key=lambda run: run.seed)
    assert read_json(same.folder / "run.json")["contents"]["train"] == digest
    assert unofficial(same, "FashionMNIST", Path(root)) == ""
    assert "are not those of the official files" in unofficial(other, "FashionMNIST", Path(root))
    assert "are not there" in unofficial(same, "FashionMNIST")
