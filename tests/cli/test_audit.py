"""`testbed audit` as a user calls it: files of several kinds, refusals in one line, and models of which the truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

Say = Callable[..., Any]
SHORT = ("data=digits", "data.reserve_per_class=2", "population=4", "trainer.max_epochs=1")
BRIEFLY = ("detector=neural_cleanse", "detector.epochs=2")
"""A quick audit: clean models that are hardly trained, and patches that are hardly searched for."""


def _backdoorbench(state: dict[str, torch.Tensor], **more: Any) -> dict[str, Any]:
    """As an attack_result.pt of BackdoorBench is laid out."""
    facts = {
        "model_name": "small_cnn",
        "num_classes": 10,
        "img_size": (16, 16, 1),
        "data_path": "./data",
        "clean_data": "digits",
    }
    return {**facts, "model": state, "bd_train": None, "bd_test": None, **more}


def _report(out: str) -> dict[str, Any]:
    return json.loads((Path(out.splitlines()[-1]) / "audit.json").read_text(encoding="utf-8"))


def test_an_audit_from_a_file_to_its_last_line(say: Say, here: Path) -> None:
    trained = say("train", "attack=none", *(word for word in SHORT if "population" not in word), "logger=none", "seed=3")
    assert trained.code == 0, trained.err
    facts = json.loads((Path(trained.out.splitlines()[-1]) / "run.json").read_text(encoding="utf-8"))
    whole = load_file(here / "outputs" / "victim" / facts["victims"]["clean_twin"] / "model.safetensors")
    save_file({name.removeprefix("net."): tensor for name, tensor in whole.items()}, here / "mine.safetensors")

    words = ("audit", "model=small_cnn", "model.path=mine.safetensors", "within=1", *SHORT, *BRIEFLY)
    said = say(*words)
    assert said.code == 0, said.err
    folder, report = Path(said.out.splitlines()[-1]), _report(said.out)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))["measures"]
    assert folder.parts[:2] == ("outputs", "audit") and (folder / "figures" / "neural_cleanse_most_suspicious.png").is_file()
    assert report["file"]["kind"] == "safetensors" and len(report["file"]["sha256"]) == 64 and report["file"]["sandbox"]
    assert report["fitness"]["value"] == result["clean_accuracy"] and report["fitness"]["clean"]["n"] == 4
    (line,) = report["detectors"]
    # Hardly trained models differ (hence within=1); what is said of them is decided by rank alone.
    above = sum(other >= line["value"] for other in line["clean"])
    assert (line["word"], line["p"]) == ("nothing found" if above else "stands out", (1 + above) / 5)
    word = "nothing found" if above else "suspicious"
    assert report["conclusion"]["word"] == word and report["conclusion"]["unlucky"] == pytest.approx(1 - 0.1 ** (1 / 4))
    assert result["neural_cleanse_p_value"] == result["p_value"] == line["p"] and result["verdict"] == word
    for shown in (report["file"]["sha256"], "clean accuracy", "neural_cleanse", word.upper(), "its own mark"):
        assert shown in said.out

    assert "already done" in say(*words).out
    # The same network in another file is another suspect; its clean models, and what was found in them, are there already.
    save_file(whole, here / "marked.safetensors", {"backdoored": "true", "mean": "[0.305]", "std": "[0.319]"})
    before = sorted((here / "outputs" / "inspection").iterdir())
    other = say("audit", "model=small_cnn", "model.path=marked.safetensors", "within=1", *SHORT, *BRIEFLY)
    marked, made = _report(other.out), json.loads((Path(other.out.splitlines()[-1]) / "run.json").read_text(encoding="utf-8"))
    assert marked["file"]["mark"] == "the file says backdoored=true" and marked["file"]["normalisation"] == "the file's own"
    assert made["made"] == [] and len(made["reused"]) == 4 and sorted((here / "outputs" / "inspection").iterdir()) == before
    assert marked["detectors"] == report["detectors"]
    assert say("report", "runs=outputs").code == 0


REFUSED = {
    "model=small_cnn": (2, "model.path: must be given"),
    "model.path=there_is_none.pt": (2, "there_is_none.pt"),
    "model.path=whole.pt attack=badnets": (2, "attack: an audit asks"),
    "model.path=whole.pt model.adapter=x": (2, "model.adapter=x: this model takes none"),
    "model.path=whole.pt population=-1": (2, "population=-1: must be at least 0"),
    "model.path=whole.pt within=0": (2, "must be above 0 and at most 1"),
    "model.path=whole.pt detectors.neural_clean.epochs=1": (2, "did you mean neural_cleanse?"),
    "model.path=hostile.pt": (3, "hostile.pt"),
    "model.path=https://example.org/model.pt": (3, "only local files are read"),
}


class Hostile:
    """Would make a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("marker"),)


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_audited_is_refused_in_one_line(line: str, say: Say, here: Path) -> None:
    torch.save({"state_dict": Hostile()}, here / "hostile.pt")
    code, reason = REFUSED[line]
    said = say("audit", *line.split(), *(() if "neural_clean" in line else BRIEFLY))
    assert said.code == code, said.err
    assert reason in said.refusal()
    assert not (here / "marker").exists() and not list((here / "outputs").glob("audit/*/result.json"))


SEEDS = (10, 11, 12)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_backdoored_models_are_told_from_clean_ones(say: Say, here: Path) -> None:
    """Six models of digits, three with a patch toward class 0 and their clean twins, each in one of three forms of file."""
    truth: dict[str, list[tuple[str, int | None]]] = {"undefended": [], "clean_twin": []}
    together: dict[str, list[dict[str, Any]]] = {"undefended": [], "clean_twin": []}
    shown: list[str] = []
    for seed, ending in zip(SEEDS, ("pt", "safetensors", "attack_result.pt"), strict=True):
        run = Path(say("train", "attack=badnets", "data=digits", f"seed={seed}", "logger=none").out.splitlines()[-1])
        victims = json.loads((run / "run.json").read_text(encoding="utf-8"))["victims"]
        for role, found in truth.items():
            stored = load_file(here / "outputs" / "victim" / victims[role] / "model.safetensors")
            network = {name.removeprefix("net."): tensor for name, tensor in stored.items()}
            path = f"{role}{seed}.{ending}"
            if ending == "safetensors":
                save_file(network, here / path)
            else:
                torch.save(network if ending == "pt" else _backdoorbench(network), here / path)
            words = ("audit", "model=small_cnn", f"model.path={path}", "data=digits")
            everybody = say(*words)
            together[role].append(_report(everybody.out)["conclusion"])
            said = say(*words, "detector=neural_cleanse")
            assert said.code == everybody.code == 0, said.err
            end = _report(said.out)["conclusion"]
            found.append((end["word"], end["toward"]))
            shown += [everybody.out, said.out]
    flagged = {role: sum(word == "suspicious" for word, _ in found) for role, found in truth.items()}
    right = sum(toward == 0 for _, toward in truth["undefended"])
    print(*shown, sep="\n")  # only now: what is printed before a command is taken for the command's
    print(f"backdoored {flagged['undefended']}/3 flagged, target right {right}/3; clean {flagged['clean_twin']}/3 flagged")
    assert flagged["undefended"] >= 2 and right >= 2
    assert flagged["clean_twin"] <= 1  # each has one chance in nine
    assert all(end["word"] == "suspicious" and end["toward"] == 0 for end in together["undefended"])
    far = [end["value"] for end in together["undefended"]]
    assert min(far) > max(max(end["value"], *end["clean"]) for end in together["clean_twin"])
