"""The folder of an export takes its place whole, once, over nothing, and what was killed leaves nothing for long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testbed.api import Invalid
from testbed.exported.row import fresh


@pytest.mark.parametrize("there", ["folder", "file"])
def test_the_slower_of_two_exports_to_one_place_is_refused(there: str, tmp_path: Path) -> None:
    place = tmp_path / "out"
    refused = pytest.raises(Invalid, match=r"to=\S+out: is there already, and nothing is overwritten")
    with refused, fresh(place, private=False) as new:
        (new / "mine").touch()
        if there == "file":
            place.write_text("theirs")
        else:
            with fresh(place, private=False) as other:
                (other / "theirs").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert place.read_text() == "theirs" if there == "file" else [path.name for path in place.iterdir()] == ["theirs"]


def test_what_a_killed_export_left_goes_with_the_next(tmp_path: Path) -> None:
    if (child := os.fork()) == 0:
        with fresh(tmp_path / "out", private=False) as new:
            (new / "train").mkdir()
            (new / "train" / "half").touch()
            os._exit(9)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    with fresh(tmp_path / "busy", private=False):  # one that is at work is left alone
        with fresh(tmp_path / "out", private=False):
            pass
        assert len(list(tmp_path.iterdir())) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"out", "busy"}
