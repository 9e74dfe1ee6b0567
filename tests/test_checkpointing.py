"""A training that was cut off goes on at the end of an epoch, and comes out bit for bit as if it had not been."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import pytorch_lightning as pl
import torch

from testbed.api import Batch, ImageTask, Invalid, Victim
from testbed.artefact import SharedFit
from testbed.checkpointing import Resumable, WholeFiles, hidden_state, require_whole
from testbed.data.memory import MemoryExamples
from testbed.files import Damaged
from testbed.fit import Settings, fit, one_cycle
from testbed.identity import weights_digest
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.record import Workspace
from testbed.tidy import tidy

TASK = ImageTask("images", ("a", "b"), shape=(1, 16, 16), augmentation="crop_flip")
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)
ADAM = partial(torch.optim.AdamW, lr=0.01)
SETTINGS = Settings(max_epochs=6, batch_size=16, optimiser=SGD, schedule=partial(one_cycle), threads=1, checkpoint_seconds=0)


def examples() -> MemoryExamples:
    labels = torch.arange(100) % 2
    inputs = torch.randint(0, 100, (100, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    inputs[labels == 1] += 100
    return MemoryExamples(inputs, labels)


def victim() -> Victim:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ImageVictim(TASK, partial(SmallCNN, width=2))


class Cut(pl.Callback):
    """Raises after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.steps:
            raise KeyError("cut")


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, optimiser=ADAM, accumulate=3),
        replace(SETTINGS, max_steps=33, gradient_clip=0.5, precision="bf16-mixed"),
    ],
    ids=["sgd", "adamw_accumulating", "steps_in_bf16"],
)
def test_what_was_cut_off_comes_out_bit_for_bit(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, place = examples(), Resumable(tmp_path / "checkpoint", 0)
    told = {"settings": settings, "seed": 1, "validation": rows}
    whole, curve = fit(victim(), rows, **told)  # type: ignore[arg-type]
    for steps in (5, 9, 4):
        with pytest.raises(KeyError):
            fit(victim(), rows, **told, resumable=place, callbacks=[Cut(steps)])  # type: ignore[arg-type]
    resumed, same = fit(victim(), rows, **told, resumable=place)  # type: ignore[arg-type]
    assert weights_digest(resumed) == weights_digest(whole) and same == curve
    assert "the training goes on after epoch" in capsys.readouterr().out
    assert len(list(place.folder.glob("*.ckpt"))) == 2


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, place = examples(), Resumable(tmp_path, 0)
    whole, _ = fit(victim(), rows, settings=SETTINGS, seed=1)
    with pytest.raises(KeyError):
        fit(victim(), rows, settings=SETTINGS, seed=1, resumable=place, callbacks=[Cut(30)])
    before, last = sorted(tmp_path.glob("*.ckpt"))
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.raises(Damaged, match="is not what was written"):
        WholeFiles().load_checkpoint(last)
    assert place.last() == before and last.name in capsys.readouterr().out
    assert weights_digest(fit(victim(), rows, settings=SETTINGS, seed=1, resumable=place)[0]) == weights_digest(whole)
    newest = max(tmp_path.glob("*.ckpt"))
    newest.with_name(f"{newest.name}.sha256").unlink()
    with pytest.raises(Damaged, match="no digest"):
        require_whole(newest)


def test_a_checkpoint_is_data(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    WholeFiles().save_checkpoint({"state": Code()}, tmp_path / "epoch-000001.ckpt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        WholeFiles().load_checkpoint(tmp_path / "epoch-000001.ckpt")
    assert not (tmp_path / "ran").exists()


class Counting(ImageVictim):
    """Remembers a number that is no part of its weights."""

    count = 0

    def loss(self, batch: Batch) -> torch.Tensor:
        self.count += 1
        return super().loss(batch)


def test_what_remembers_more_than_weights_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(Counting(TASK, partial(SmallCNN, width=2)), examples(), settings=SETTINGS, seed=1, resumable=Resumable(tmp_path, 0))
    assert not list(tmp_path.iterdir()) and "count changes in training" in capsys.readouterr().out
    assert hidden_state(victim()) == hidden_state(victim())


def test_whatever_is_remembered_is_seen() -> None:
    remembering = victim()
    remembering._count, remembering.drawn = 0, torch.Generator().manual_seed(0)  # type: ignore[assignment]
    remembering.array, remembering.seen, remembering.queue = numpy.zeros(2), set[int](), deque([0])  # type: ignore[assignment]
    changes: list[Callable[[], object]] = [
        lambda: setattr(remembering, "_count", 1),
        lambda: torch.rand(1, generator=remembering.drawn),  # type: ignore[arg-type]
        lambda: remembering.array.__iadd__(1),  # type: ignore[union-attr, operator]
        lambda: remembering.seen.add(1),  # type: ignore[union-attr, operator]
        lambda: remembering.queue.append(1),  # type: ignore[union-attr, operator]
    ]
    for change in changes:
        before = hidden_state(remembering)
        change()
        assert hidden_state(remembering) != before


class Drawing(ImageVictim):
    """Draws from the generators of Python and NumPy, which nobody should."""

    def loss(self, batch: Batch) -> torch.Tensor:
        return super().loss(batch) * (1 + random.random() + numpy.random.rand())


def test_other_generators_are_seeded_too_and_left_as_they_were(tmp_path: Path) -> None:
    def drawing() -> Victim:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Drawing(TASK, partial(SmallCNN, width=2))

    states = random.getstate(), numpy.random.get_state()[1].tolist()  # type: ignore[union-attr]
    place = Resumable(tmp_path, 0)
    whole, _ = fit(drawing(), examples(), settings=SETTINGS, seed=1)
    with pytest.raises(KeyError):
        fit(drawing(), examples(), settings=SETTINGS, seed=1, resumable=place, callbacks=[Cut(20)])
    resumed, _ = fit(drawing(), examples(), settings=SETTINGS, seed=1, resumable=place)
    assert weights_digest(resumed) == weights_digest(whole)
    assert states == (random.getstate(), numpy.random.get_state()[1].tolist())  # type: ignore[union-attr]


def test_checkpoints_of_a_training_that_ended_are_swept(tmp_path: Path) -> None:
    shared(tmp_path)(victim(), examples())
    (key,) = [path.name for path in tmp_path.glob("victim/[!.]*")]
    for name in (key, "another"):
        (tmp_path / "checkpoint" / name).mkdir(parents=True)
    tidy(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["another"]


KILLED = """
import os, signal, sys
from pathlib import Path
import pytorch_lightning as pl
sys.path.insert(0, sys.argv[2])
from test_checkpointing import SETTINGS, shared, victim, examples
from testbed import training
class Kill(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step >= int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
lean = training.lean_trainer
training.lean_trainer = lambda settings, steps, callbacks: lean(settings, steps, [*callbacks, Kill()])
shared(Path(sys.argv[1]))(victim(), examples())
"""


def shared(outputs: Path) -> SharedFit:
    return SharedFit(outputs, SETTINGS, 1, Workspace(outputs), backdoored=False)


def test_a_shared_victim_outlives_kill_9(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = shared(tmp_path / "whole")(victim(), examples())
    words = [str(tmp_path / "cut"), str(Path(__file__).parent)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words, "24"], check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    resumed = shared(tmp_path / "cut")(victim(), examples())
    assert "the training goes on after epoch 3" in capsys.readouterr().out
    assert weights_digest(resumed) == weights_digest(whole)
    names = [{p.relative_to(tmp_path / run).as_posix() for p in (tmp_path / run).rglob("*.*")} for run in ("whole", "cut")]
    assert names[0] == names[1], "a training that has ended leaves no checkpoint"


def test_a_damaged_victim_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = shared(tmp_path)(victim(), examples())
    (model,) = tmp_path.glob("victim/*/model.safetensors")
    content = bytearray(model.read_bytes())
    content[-5] ^= 1
    model.write_bytes(content)
    again = shared(tmp_path)(victim(), examples())
    assert "model.safetensors is not what was written" in capsys.readouterr().err
    assert weights_digest(again) == weights_digest(made)


def test_how_often_does_not_name_the_run_and_must_be_possible() -> None:
    key = partial(SharedFit(Path(), SETTINGS, 1, Workspace(Path()), backdoored=False).key, victim(), examples())
    assert key(SETTINGS) == key(replace(SETTINGS, checkpoint_seconds=None))
    for wrong in (-1.0, float("nan")):
        with pytest.raises(Invalid, match="checkpoint_seconds"):
            replace(SETTINGS, checkpoint_seconds=wrong).check()
