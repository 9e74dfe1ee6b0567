"""What is kept in files is written whole, however many write it at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from testbed.data.cache import load_tensors, replaced, save_tensors
from testbed.files import sweep
from testbed.words import Refused


def test_two_processes_of_one_number_write_the_same_file(tmp_path: Path) -> None:
    # As in two containers that share a folder: there every program may be process 1.
    place = tmp_path / "kept"
    with replaced(place) as first:
        first.write_text("first")
        with replaced(place) as second:
            second.write_text("second")
        assert place.read_text() == "second"
    assert place.read_text() == "first" and list(tmp_path.iterdir()) == [place]


def test_what_a_killed_process_left_is_swept_with_the_outputs(tmp_path: Path) -> None:
    if (child := os.fork()) == 0:
        with replaced(tmp_path / "kept") as new:
            new.write_text("half")
            os._exit(9)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match=r"data.cache=\S+file: cannot be written \(.*\); say data.cache=DIR"):
        save_tensors(tmp_path / "file" / "x.safetensors", {"a": torch.ones(1)})
    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    assert load_tensors(tmp_path / "x.safetensors").keys() == {"a"}  # type: ignore[union-attr]
