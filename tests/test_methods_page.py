"""docs/methods.md is what scripts/methods makes of conf/ and of the kept records, and every header can be read."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from methods.header import Header, Published, headers  # noqa: E402
from methods.needs import _Weights  # noqa: E402
from methods.page import page  # noqa: E402

HEADERS = headers(ROOT / "conf")


def test_the_page_is_made_from_what_is_kept() -> None:
    told = json.loads((ROOT / "docs" / "methods.json").read_text(encoding="utf-8"))
    names = {f"{header.group}/{header.name}" for header in HEADERS}
    assert told["seen"].keys() == names and told["measured"].keys() <= names, "say python scripts/methods write"
    made = page(HEADERS, told["measured"], told["seen"])
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == made, "say python scripts/methods write"


@pytest.mark.parametrize("header", [header for header in HEADERS if header.claim], ids=lambda header: header.name)
def test_a_claim_is_said_to_be_shown_or_not(header: Header) -> None:
    assert header.verdict and header.here and header.paper and f"={header.name}" in " ".join(header.command)


def made(group: str, name: str, *cells: dict[str, Any], **more: Any) -> str:
    """The page of one method with these records."""
    header = replace(next(one for one in HEADERS if (one.group, one.name) == (group, name)), **more)
    whole = [{"names": {}, "poison_rate": 0.05, "status": ["done"], "seconds": 1.0, **cell} for cell in cells]
    return page([header], {f"{group}/{name}": whole}, {})


def test_trials_are_told_as_trials_and_not_as_seeds() -> None:
    measures = {"attack_success_rate": [0.0] * 9 + [1.0], "clean_accuracy": [0.98, 1.0] * 5}
    names = {"data": "digits", "attack": "gradient_matching"}
    told = made("attack", "gradient_matching", {"names": names, "targeted": True, "measures": measures})
    assert "| digits, gradient_matching 5 % | 1 of 10 trials [.018, .404] | .99 |" in told
    assert " | success on digits: gradient_matching 5 % .1 | " in told


def test_what_a_defence_changed_stands_beside_what_it_changed_where_it_was_published() -> None:
    def cell(detector: str, after: float, rate: float = 0.05) -> dict[str, Any]:
        names = {"data": "digits", "attack": "badnets", "defence": "filter", "detector": detector}
        measures = {"undefended_attack_success_rate": [1.0, 0.8], "attack_success_rate": [after, after]}
        return {"names": names, "poison_rate": rate, "measures": measures}

    numbers = {"undefended_attack_success_rate": 0.9, "attack_success_rate": 0.2, "clean_accuracy": 0.9}
    settings = ("CIFAR-10, BadNets 5 %, scan", "BadNets 10 %, scan", "BadNets, scan", "BadNets 5 %", "Blended 5 %, scan")
    published = tuple(Published(setting, numbers, "somebody") for setting in settings)
    clean = {"names": {"data": "digits", "attack": "none", "defence": "filter", "detector": "scan"}, "poison_rate": 0.0}
    measures = {"undefended_clean_accuracy": [1.0], "clean_accuracy": [0.9]}
    cells = (cell("strip", 0.5), cell("scan", 0.25), {**clean, "measures": measures})
    told = made("defence", "filter", *cells, published=published)
    assert "success on digits: badnets 5 %, strip .9 → .5, badnets 5 %, scan .9 → .25" in told, "cells that differ stay apart"
    assert "| CIFAR-10, BadNets 5 %, scan: success .9 → .2; BadNets 10 %, scan: success .9 → .2; " in told
    assert "| success −.65 (−.7) |" in told, "one of the five lines is at a rate, of an attack and by a detector as here"
    assert "| digits, badnets 5 %, strip | .9 (1 .8) | .5 |" in told
    assert "none done" not in told and ", none" not in told.partition("what was measured")[0], "it has no success to tell"
    differences = [line.partition(" Difference: ")[2] for line in told.splitlines() if line.startswith("- Published")]
    assert differences[0] == "success −.65 (−.7)." and differences[1:] == [""] * 4


def test_an_attack_whose_rate_is_its_own_stands_beside_any_rate_and_the_clean_arm_beside_none() -> None:
    published = (Published("CIFAR-10, PreAct ResNet-18, 10 %", {"attack_success_rate": 0.95}, "somebody"),)
    cells = [
        {"names": {"data": "digits", "attack": attack}, "poison_rate": 0.0, "measures": {"attack_success_rate": [success]}}
        for attack, success in (("wanet", 0.75), ("none", 0.0))
    ]
    assert "| success −.2 |" in made("attack", "wanet", cells[0], published=published)
    assert "| success −.2 |" in made("attack", "wanet", *cells, published=published)
    assert "Difference:" not in made("attack", "wanet", cells[1], published=published)
    under = {**cells[0], "names": {**cells[0]["names"], "defence": "fine_pruning"}, "measures": {"attack_success_rate": [0.5]}}
    plain = {**cells[0], "names": {**cells[0]["names"], "defence": "none"}}
    assert "| success −.2 |" in made("attack", "wanet", under, plain, published=published), "published without a defence"


def test_an_attack_behind_a_defence_says_so_and_what_did_not_end_well_is_told() -> None:
    names = {"data": "digits", "attack": "badnets", "defence": "fine_pruning"}
    measures = {"undefended_attack_success_rate": [1.0], "attack_success_rate": [0.25]}
    failed = {"names": {**names, "model": "vit_small"}, "status": ["failed"], "measures": {}}
    told = made("attack", "badnets", {"names": {**names, "model": "small_cnn"}, "measures": measures}, failed)
    place = "digits, badnets 5 %"
    assert f"| {place}, small_cnn, under fine_pruning | 1 | .25 | done |" in told
    assert f"| {place}, vit_small, under fine_pruning |  |  | failed |" in told
    assert "success on digits: badnets 5 %, small_cnn, under fine_pruning 1 → .25, " in told
    assert "vit_small, under fine_pruning failed |" in told
    assert "| | status |\n| --- | --- |\n| digits, badnets 5 %, under fine_pruning | failed |" in made(
        "attack", "badnets", failed
    )


def test_detectors_of_rows_and_queries_are_told_by_both() -> None:
    cell = {
        "names": {"data": "digits", "attack": "badnets", "detector": "ted"},
        "measures": {"auroc": [0.5], "queries_auroc": [1]},
    }
    published = (Published("CIFAR-10, BadNets 5 %", {"queries_auroc": 0.75}, "somebody"),)
    told = made("detector", "ted", cell, published=published)
    assert "| AUROC on digits: badnets 5 % rows .5, queries 1 | CIFAR-10, BadNets 5 %: AUROC of queries .75 |" in told
    assert "| AUROC of queries +.25 |" in told


def test_every_link_of_the_page_leads_somewhere() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    names, links = re.findall(r'<a name="([^"]+)">', text), re.findall(r"\]\(#([^)]+)\)", text)
    assert sorted(links) == sorted(names) and len(set(names)) == len(names) == len(HEADERS)
    assert all((ROOT / "docs" / path).is_file() for path in re.findall(r"\]\((\.\./[^)]+)\)", text))


def test_detectors_of_models_have_an_interval_over_models() -> None:
    clean = {"names": {"data": "digits", "attack": "none"}, "poison_rate": 0.0, "measures": {"anomaly_index": [0.1, 0.2, 0.3]}}
    cells = [
        {"names": {"data": "digits", "attack": attack}, "measures": {"anomaly_index": [index, index + 1]}}
        for attack, index in (("badnets", 1.0), ("blended", 0.15))
    ]
    told = made("detector", "k_arm", clean, *cells)
    assert "Newcombe's interval: digits, badnets 5 % 1 [.439, 1] (n = 3 + 2); digits, blended 5 % .667 [" in told
    assert "AUROC on digits: badnets 5 % 1, blended 5 % .667, all .833 |" in told
    icons = [{**one, "names": {**one["names"], "data": "icons"}} for one in (clean, cells[1])]
    icons[0]["measures"] = {"anomaly_index": [0.1, 0.2]}
    told = made("detector", "k_arm", clean, cells[0], *icons)
    assert "digits: badnets 5 % 1; AUROC on icons: blended 5 % .75 |" in told
    assert "(n = 3 + 2); icons, blended 5 % .75 [" in told and "] (n = 2 + 2)." in told


def test_weights_are_read_outside_a_model_s_own_passes() -> None:
    model, inputs = torch.nn.Linear(3, 2), torch.ones(1, 3)
    seen: set[str] = set()
    with _Weights(seen):
        model(inputs).sum().backward()
        model.requires_grad_(False)
        assert len(model.state_dict()) == 2 and str(model.weight.device)
        assert not seen
        model.weight.norm()
    assert seen == {"weights"}
    assert torch.nn.Module.__call__(model, inputs).shape == (1, 2)
