"""docs/methods.md is what scripts/methods makes of conf/ and of the kept records, and every header can be read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from methods.header import Header, headers  # noqa: E402
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


def test_trials_are_told_as_trials_and_not_as_seeds() -> None:
    header = next(header for header in HEADERS if header.name == "gradient_matching")
    cell = {"names": {"data": "digits", "attack": "gradient_matching"}, "poison_rate": 0.01, "seeds": [0] * 10, "seconds": 1.0}
    measures = {"attack_success_rate": [0.0] * 9 + [1.0], "clean_accuracy": [0.98, 1.0] * 5}
    told = page([header], {"attack/gradient_matching": [{**cell, "status": ["done"], "targeted": True, "measures": measures}]}, {})
    assert "digits, gradient_matching 1 %: success 1 of 10 trials [0.018, 0.404], clean accuracy .99 |" in told


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
