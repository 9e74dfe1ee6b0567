"""Bad input is refused in one line that names the configuration key, before anything is trained or left behind."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from testbed.metrics import Answers, rates

Say = Callable[..., Any]
QUICK = ("trainer.max_epochs=1", "model.network.width=2", "logger=none", "trainer.threads=1")
SOURCES = "attack.label._target_=testbed.attack.label.SourceSpecific +attack.label.source_labels="
RATE, SHARE = "input should be a valid number", "give a share of the rows, between 0 and 1"

REFUSED = {
    # A share of the training rows.
    "train attack.poison_rate=7": "attack.poison_rate=7.0: must lie between 0 and 1",
    "train attack.poison_rate=-0.1": "attack.poison_rate=-0.1: must lie between 0 and 1",
    "train attack.poison_rate=nan": "attack.poison_rate=nan: must lie between 0 and 1",
    "train attack.poison_rate=inf": "attack.poison_rate=inf: must lie between 0 and 1",
    "train attack.poison_rate=10%": f"attack.poison_rate=10%: {RATE}, unable to parse string as a number; {SHARE}",
    "train attack.poison_rate=": f"attack.poison_rate=: {RATE}",
    "train attack.poison_rate=null": f"attack.poison_rate=null: {RATE}; {SHARE}",
    "train attack.poison_rate=true": f"attack.poison_rate=True: input should be a number; {SHARE}",
    "train attack.poison_rate=0.0001": "0.0001 x 1207 training rows rounds to 0 rows; raise it, or say attack=none",
    "train attack.poison_rate=1": "needs 1207 rows, but only 10",
    "train attack.clean_label=true attack.poison_rate=0.5": "needs 604 rows, but only 1",
    # Classes.
    "train attack.target_label=10": "attack.target_label=10: the classes are 0 to 9",
    "train attack.target_label=-1": "attack.target_label=-1: the classes are 0 to 9",
    "train attack.target_label=-100": "attack.target_label=-100: the classes are 0 to 9",
    "train attack.target_label=cat": "attack.target_label=cat: input should be a valid integer",
    "train attack.target_label=1.5": "attack.target_label=1.5: input should be a valid integer",
    f"train {SOURCES}[0,1]": "attack.label.source_labels=[0, 1]: the target class is one of the source classes",
    f"train {SOURCES}[10]": "attack.label.source_labels=[10]: the classes are 0 to 9",
    f"train {SOURCES}[]": "attack.label.source_labels=[]: ",
    # Triggers that do not fit the images, which are 16x16 and grey.
    "train attack.trigger.size=17": "attack.trigger.size=17: with margin 0 the patch does not fit into images of 16x16 pixels",
    "train attack.trigger.margin=14": "with margin 14 the patch does not fit into images of 16x16 pixels",
    "train attack.trigger.margin=-1": "size must be at least 1 and margin at least 0",
    "train attack.trigger.size=0": "attack.trigger.size=0: size must be at least 1",
    "train attack.trigger.value=[256]": "attack.trigger.value=[256]: pixels are whole numbers from 0 to 255",
    "train attack.trigger.value=[-1]": "attack.trigger.value=[-1]: pixels are whole numbers from 0 to 255",
    "train attack.trigger.value=[0.5]": "attack.trigger.value=[0.5]: input should be a valid integer",
    "train attack.trigger.value=[255,0,0]": "attack.trigger.value=[255, 0, 0]: the images have 1 channel(s)",
    "train attack.trigger.corner=middle": "attack.trigger.corner=middle: input should be 'bottom_right'",
    "train attack=blended attack.trigger.alpha=0": "attack.trigger.alpha=0.0: must be above 0",
    "train attack=blended attack.trigger.alpha=nan": "attack.trigger.alpha=nan: must be above 0",
    "train attack=blended attack.trigger.picture=none.png": "attack.trigger.picture=none.png: there is no such file",
    # Arguments that a class does not take, and classes that nobody has.
    "train +attack.foo=1": "attack.foo=1: Backdoor takes no such argument",
    "train ~attack.poison_rate": "attack.poison_rate: must be given; say attack.poison_rate=",
    "train ~attack": "attack: must be given",
    "train attack._target_=mine": "attack._target_=mine: must be a module and a class in it",
    "train attack._target_=mine.Attack": "attack._target_=mine.Attack: there is no module mine",
    "train attack._target_=testbed.attack.none.NoAttak": "did you mean NoAttack?",
    "train data=image_folder": "data.root: must be given; say data.root=",
    "train data=arrays": "data.test: must be given; say data.test=",
    "train data=arrays data.train=none.npz data.test=none.npz": "data.train=none.npz: there is no such file",
    # Seeds and training.
    "train seed=abc": "seed=abc: input should be a valid integer",
    "train seed=-1": "seed=-1: must be at least 0",
    "train seed=1.5": "seed=1.5: input should be a valid integer",
    "train trainer.max_epochs=0": "trainer.max_epochs=0: must be at least 1",
    "train trainer.batch_size=1": "trainer.batch_size=1: batch normalisation cannot train on a single row; at least 2",
    "train trainer.batch_size=0": "trainer.batch_size=0: must be at least 1",
    "train trainer.threads=0": "trainer.threads=0: must be at least 1",
    "train trainer.gradient_clip=nan": "trainer.gradient_clip=nan: must be above 0",
    "train trainer.optimiser.lr=-1": "trainer.optimiser.lr=-1.0: Invalid learning rate: -1.0",
    "train trainer.optimiser.momentum=0": "trainer.optimiser: Nesterov momentum requires a momentum",
    "train +trainer.optimiser.mass=1": "trainer.optimiser.mass=1: SGD takes no such argument",
    "train +trainer.schedule.warm_up=0/1": "trainer.schedule.warm_up=0/1: input should be a valid number",
    "train trainer.precision=8-true": "trainer.precision=8-true: there is no such choice",
    "train trainer.precision=17": "trainer.precision=17: input should be a valid string; choose from 32-true, 16-mixed",
    "train trainer.accelerator=quantum": "trainer.accelerator=quantum: there is no such choice; choose from auto, cpu",
    # Models.
    "train model.network.width=0": "model.network.width=0: it must be at least 1",
    "train model.weights=none.safetensors": "model.weights=none.safetensors: there is no such file",
    "train model.weights=model.pt": "model.weights=model.pt: only .safetensors files are read",
    # Detectors and defences.
    "detect detector.layer=penultimat": "detector.layer=penultimat: the model has no such layer; did you mean penultimate?",
    "train defence=filter detector.layer=penultimat": "detector.layer=penultimat: the model has no such layer",
    "train defence=filter detector=neural_cleanse": "detector=NeuralCleanse: judges models, but defence=filter needs one that",
    "train defence=reject detector=spectral_signatures": "judges rows, but defence=reject needs one that judges queries",
    "train defence=fine_pruning defence.max_drop=1": "defence.max_drop=1.0: must lie between 0 and 1",
    "train defence=fine_tuning defence.epochs=0": "defence.epochs=0: must be at least 1",
    "train defence=fine_tuning data.reserve_per_class=0": "data.reserve",
    "detect detector=strip detector.overlays=10000": "detector.overlays=10000: the reserve has 140 images",
    "train data.reserve_per_class=1000": "data.reserve_per_class=1000: class '0' has",
    # Names that lead elsewhere.
    "train attack=../../x": "attack=../../x: a name may hold letters, digits, '.', '_' and '-', 80 at most",
    f"train data={'x' * 300}": f"data={'x' * 300}: a name may hold",
    "train attack=..": "attack=..: there is no such attack",
    "train defence/rule=../../x defence=filter": "defence/rule=../../x: a name may hold",
    "train -m hydra.sweep.dir=/tmp/x": "hydra.sweep.dir: everything is written below paths.outputs",
    "train -m hydra.sweep.subdir=../x": "hydra.sweep.subdir: everything is written below paths.outputs",
    "train -m hydra.sweep={dir:/tmp/x}": "hydra.sweep: everything is written below paths.outputs",
    "train hydra.run.dir=/tmp/x": "hydra.run.dir: everything is written below paths.outputs",
    f"train paths.outputs={'x' * 300}": "paths.outputs=xxx",
    "train paths.outputs=": "paths.outputs: must be given",
}


@pytest.mark.parametrize("words", REFUSED)
def test_refused_before_anything_is_trained(words: str, say: Say, here: Path) -> None:
    said = say(*shlex.split(words), "logger=none")
    assert said.code == 2, said
    assert REFUSED[words] in said.refusal()
    assert made(here) == []


def made(folder: Path) -> list[Path]:
    """Whatever a refused run could leave: everything but what locks are made of, and crafted poison."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if not {".locks", "poison"} & set(path.relative_to(folder).parts)]


def test_a_refusal_in_a_process_of_its_own_is_one_line_too(spawn: Say, here: Path) -> None:
    said = spawn("train", "trainer.batch_size=1")
    assert said.code == 2
    assert said.refusal() == "trainer.batch_size=1: batch normalisation cannot train on a single row; at least 2"
    assert made(here) == []


def test_a_refused_run_leaves_a_finished_one_alone(say: Say, here: Path) -> None:
    finished = say("train", *QUICK, "attack.poison_rate=0")
    assert finished.code == 0
    folder = Path(finished.out.splitlines()[-1])
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["counts"]["poisoned"], result["measures"]["poison_rate_reached"]) == ("done", 0, 0)
    before = {path: path.read_bytes() for path in made(here)}
    assert say("train", *QUICK, "attack.poison_rate=7").code == 2
    assert {path: path.read_bytes() for path in made(here)} == before


def test_a_last_batch_of_one_row_trains_with_batch_normalisation(say: Say) -> None:
    said = say("train", *QUICK, "attack=none", "trainer.batch_size=134")
    assert 1207 % 134 == 1
    assert said.code == 0
    assert json.loads((Path(said.out.splitlines()[-1]) / "result.json").read_text())["status"] == "done"


def test_rows_of_the_target_class_are_no_success(say: Say, here: Path) -> None:
    target, others = torch.tensor([True, True, True]), torch.tensor([True, False, False])
    rows = torch.arange(3)
    answers = {"clean": Answers(rows, target, None, rows), "success": Answers(rows, ~others, others, rows)}
    assert rates(answers)[0]["attack_success_rate"] == pytest.approx(1 / 3)
    said = say("train", *QUICK)
    counts = json.loads((Path(said.out.splitlines()[-1]) / "result.json").read_text())["counts"]
    assert (counts["clean_accuracy"], counts["attack_success_rate"]) == (400, 360)  # 40 of each class; class 0 is wanted
