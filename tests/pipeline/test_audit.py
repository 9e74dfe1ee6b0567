"""An audit from its pieces: what was planted is found where it is, and an interruption loses nothing that was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file

from testbed.api import DefenderResources, Examples, Inspection, Invalid, ModelDetector, Unsupported, Victim
from testbed.detector.requirement import require_reserve
from testbed.files import read_json
from testbed.fit import fit
from testbed.pipeline.audit import audit
from testbed.words import Faulty

from .conftest import World


@dataclass(frozen=True)
class Leaning(ModelDetector):
    """Scores each class by how much the last layer leans toward it."""

    asked: ClassVar[list[int]] = []
    ends_at: ClassVar[int | None] = None

    def check(self, resources: DefenderResources) -> None:
        require_reserve(resources, 1)

    def inspect(self, victim: Victim, resources: DefenderResources) -> Inspection:
        Leaning.asked.append(len(Leaning.asked))
        if len(Leaning.asked) == Leaning.ends_at:
            raise KeyboardInterrupt
        scores = victim.head.bias.detach().double()  # type: ignore[union-attr, operator]
        return Inspection(scores, ())


@dataclass(frozen=True)
class Elsewhere(Leaning):
    """Applies to nothing."""

    def check(self, resources: DefenderResources) -> None:
        raise Unsupported("needs a model of smells")


@dataclass(frozen=True)
class Lopsided(Leaning):
    """Gives absolute scores for fewer classes than it judged."""

    def inspect(self, victim: Victim, resources: DefenderResources) -> Inspection:
        return super().inspect(victim, resources)._replace(absolute=torch.zeros(2))


Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(world: World, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """`audit` of a file with everything filled in: its report."""
    monkeypatch.setattr(Leaning, "asked", [])
    monkeypatch.setattr(Leaning, "ends_at", None)
    parts = {name: world.parts[name] for name in ("model", "seed", "paths")}
    parts |= {"trainer": replace(world.parts["trainer"], max_epochs=15), "data": world.splits, "population": 4, "within": 0.5}

    def asked(path: Path, **changes: Any) -> dict[str, Any]:
        own = {"suspect": {"path": str(path), "kind": "file"}, "detectors": {"leaning": Leaning()}}
        folder = audit(**{**parts, **own, **changes})  # type: ignore[arg-type]
        return {"folder": folder, **read_json(folder / "audit.json")}

    return asked


@pytest.fixture
def trained(world: World) -> Victim:
    """A model of the world's that no audit makes."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        fresh = world.parts["model"](world.splits.task)
    settings = replace(world.parts["trainer"], max_epochs=15)
    return fit(fresh, world.splits.train, settings=settings, seed=7)[0]


def _saved(victim: Victim, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in victim.net.state_dict().items()}, path)  # type: ignore[operator, union-attr]
    return path


def test_what_was_planted_is_found_where_it_is(ask: Ask, trained: Victim, tmp_path: Path) -> None:
    plain = ask(_saved(trained, tmp_path / "plain.safetensors"))
    with torch.no_grad():
        trained.head.bias[3] += 1  # type: ignore[union-attr, operator, index]
    found = ask(_saved(trained, tmp_path / "planted.safetensors"))
    (line,) = found["detectors"]
    assert (line["word"], line["toward"], line["p"]) == ("stands out", 3, pytest.approx(1 / 5)), line["why"]
    assert found["conclusion"]["word"] == "suspicious" and found["conclusion"]["toward"] == 3
    result = read_json(found["folder"] / "result.json")
    assert result["measures"]["suspected_target"] == result["measures"]["leaning_suspected_target"] == 3
    # The clean models are those of the first audit, and were looked at once.
    assert read_json(found["folder"] / "run.json")["made"] == []
    assert len(Leaning.asked) == 5 + 1
    assert plain["fitness"]["clean"] == found["fitness"]["clean"]


def test_an_interrupted_audit_goes_on_where_it_was(ask: Ask, trained: Victim, tmp_path: Path) -> None:
    path = _saved(trained, tmp_path / "mine.safetensors")
    Leaning.ends_at = 4  # the suspect and two clean models are done
    with pytest.raises(KeyboardInterrupt):
        ask(path)
    Leaning.ends_at = None
    Leaning.asked.clear()
    found = ask(path)
    assert len(Leaning.asked) == 1 + 2
    assert len(read_json(found["folder"] / "run.json")["reused"]) == 4


def test_who_cannot_be_asked_is_named_with_the_reason(ask: Ask, trained: Victim, world: World, tmp_path: Path) -> None:
    path = _saved(trained, tmp_path / "mine.safetensors")
    poor = replace(world.splits, reserve=_nothing(world.splits.reserve))
    found = ask(path, data=poor, detectors={"leaning": Leaning(), "elsewhere": Elsewhere()})
    (line,) = found["detectors"]
    assert line["word"] == "cannot tell" and "the reserve has 0" in line["why"]
    assert found["not_asked"] == {"elsewhere": "needs a model of smells"}
    assert found["conclusion"]["doubt"] == line["why"]
    assert Leaning.asked == [] and found["fitness"]["clean"]["n"] == 0
    with pytest.raises(Invalid, match=r"detectors\.leaning=int"):
        ask(path, detectors={"leaning": 3})


@pytest.mark.parametrize("name", ["foo", "memory", "seconds"])
def test_limits_that_are_none_are_nobodys_fault_but_the_users(name: str, ask: Ask, trained: Victim, tmp_path: Path) -> None:
    path = _saved(trained, tmp_path / "mine.safetensors")
    for value in {"foo": (1,), "memory": (1e30, True), "seconds": (float("inf"), -1, float("nan"))}[name]:
        with pytest.raises(Invalid, match=rf"^limits\.{name}="):
            ask(path, limits={name: value})


def test_a_detector_that_does_no_inspection_is_to_blame(ask: Ask, trained: Victim, tmp_path: Path) -> None:
    path = _saved(trained, tmp_path / "mine.safetensors")
    with pytest.raises((Faulty, FileNotFoundError)):
        ask(path, detectors={"lopsided": Lopsided()})
    (result,) = tmp_path.glob("outputs/audit/*/result.json")
    assert read_json(result)["status"] == "failed" and "absolute scores for its 10" in read_json(result)["reason"]


def _nothing(rows: Examples) -> Examples:
    return rows.take(torch.arange(0))  # type: ignore[attr-defined]
