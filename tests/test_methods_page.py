"""docs/methods.md is what scripts/methods makes of conf/ and of the kept records, and every header can be read."""

from __future__ import annotations

import json
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
    assert "| digits, gradient_matching 5 % | 1 of 10 trials [0.018, 0.404] | .99 |" in told
    assert " | success on digits: gradient_matching 5 % .1 | " in told


def test_what_a_defence_changed_stands_beside_what_it_changed_where_it_was_published() -> None:
    def cell(detector: str, after: float, rate: float = 0.05) -> dict[str, Any]:
        names = {"data": "digits", "attack": "badnets", "defence": "filter", "detector": detector}
        measures = {"undefended_attack_success_rate": [1.0, 0.8], "attack_success_rate": [after, after]}
        return {"names": names, "poison_rate": rate, "measures": measures}

    numbers = {"undefended_attack_success_rate": 0.9, "attack_success_rate": 0.2, "clean_accuracy": 0.9}
    published = (Published("CIFAR-10, BadNets 5 %", numbers, "somebody"), Published("Blended 10 %", numbers, "else"))
    told = made("defence", "filter", cell("strip", 0.5), cell("scan", 0.25), published=published)
    assert "success on digits: badnets 5 %, strip .9 → .5, badnets 5 %, scan .9 → .25" in told, "cells that differ stay apart"
    assert "| CIFAR-10, BadNets 5 %: success .9 → .2; Blended 10 %: success .9 → .2 | success −.4 (−.7) |" in told
    assert "| digits, badnets 5 %, strip | .9 (1 .8) | .5 |" in told
    assert "clean accuracy .9 (somebody). Difference: success −.4 (−.7).\n- Published, Blended" in told
    assert "(else).\n" in told, "nothing was measured at its rate"


def test_detectors_of_models_have_an_interval_over_models() -> None:
    clean = {"names": {"data": "digits", "attack": "none"}, "poison_rate": 0.0, "measures": {"anomaly_index": [0.1, 0.2, 0.3]}}
    cells = [
        {"names": {"data": "digits", "attack": attack}, "measures": {"anomaly_index": [index, index + 1]}}
        for attack, index in (("badnets", 1.0), ("blended", 0.15))
    ]
    told = made("detector", "k_arm", clean, *cells)
    assert "against 3 clean ones (Newcombe's interval): digits, badnets 5 % 1 [.439, 1]; digits, blended 5 % .667 [" in told
    assert "AUROC on digits: badnets 5 % 1, blended 5 % .667, all .833 |" in told


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
