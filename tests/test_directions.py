"""What papers agree on and was seen here is still seen: the directions of scripts/directions.py, from their own commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import directions  # noqa: E402

KEPT = json.loads(directions.KEPT.read_text(encoding="utf-8"))
REAL = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("directions")


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(
            key,
            marks=[
                *REAL,
                *([pytest.mark.real_data] if "TESTBED_DATA" in " ".join(directions.DIRECTIONS[key].commands) else []),
            ],
        )
        for key in directions.DIRECTIONS
        if KEPT.get(key, {}).get("verdict") == "shown"
    ],
)
def test_a_direction_that_was_shown_still_shows(key: str, outputs: Path) -> None:
    told = directions.record(directions.DIRECTIONS[key], outputs)
    assert told["verdict"] == "shown", told


def test_the_page_tells_every_direction_as_it_was_measured() -> None:
    assert KEPT and KEPT.keys() <= directions.DIRECTIONS.keys(), "say python scripts/directions.py"
    assert directions.PAGE.read_text(encoding="utf-8") == directions.page(KEPT), "say python scripts/directions.py"
