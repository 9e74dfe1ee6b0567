"""Every judge's configuration hides nothing, works as it stands, and names it by what changes its verdicts."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.identity import describe, key
from testbed.language import OUTCOMES, Judge
from testbed.launcher.instantiate import instantiate

CONF = Path(__file__).parents[2] / "conf" / "judge"
JUDGES = sorted(path.stem for path in CONF.glob("*.yaml"))


def made(name: str, path: Path) -> Judge:
    given = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    missing = {"path": str(path), "base_url": "http://localhost/v1", "model": "m", "api_key_env": None}
    found = instantiate({**given, **{part: value for part, value in missing.items() if part in given}}, "judge")
    assert set(given) - {"_target_"} == set(inspect.signature(type(found)).parameters)
    return found  # type: ignore[no-any-return]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_is_as_its_configuration_says(name: str, model: Path) -> None:
    judge = made(name, model)
    judge.check(None)
    assert judge.name == name and judge.tells <= set(OUTCOMES) and "refuse" in judge.tells
    assert not {"correct", "comply"} <= judge.tells  # it tells right from wrong, or it does not
    json.dumps(describe(judge))


@pytest.mark.parametrize("name", ["hf_classifier", "hf_generative", "openai_compatible"])
def test_a_judge_is_named_by_its_model_s_contents_and_not_by_how_it_is_run(name: str, model: Path) -> None:
    judge: Any = made(name, model)
    before = key(judge=describe(judge))
    how = {"batch_size": 1} if name.startswith("hf") else {"timeout": 1.0, "concurrency": 9}
    assert key(judge=describe(replace(judge, **how))) == before
    assert key(judge=describe(replace(judge, template="{reply}?"))) != before
    if name != "hf_classifier":  # the first that is found counts
        assert key(judge=describe(replace(judge, verdicts=judge.verdicts[::-1]))) != before
    if name.startswith("hf"):
        moved = model.rename(model.with_name(f"{model.name}-moved"))
        assert key(judge=describe(replace(judge, path=moved))) == before
        (moved / "model.safetensors").write_bytes(b"others")
        assert key(judge=describe(replace(judge, path=moved))) != before
