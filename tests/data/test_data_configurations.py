"""Every data set has a configuration that hides nothing, and a card."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATIONS = sorted(
    path for path in (ROOT / "conf" / "data").glob("*.yaml") if "testbed.data." in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_a_configuration_lists_every_parameter_with_its_default(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ") and lines[1].startswith(f"# testbed train data={path.stem} ")
    given = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    parameters = inspect.signature(get_method(given.pop("_target_"))).parameters
    given.pop("defaults", None)  # what other groups choose for these data
    assert set(given) == set(parameters)
    for name, parameter in parameters.items():
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        assert default is inspect.Parameter.empty or given[name] == default, name


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_a_data_set_has_a_card(path: Path) -> None:
    card = (ROOT / "datasets" / f"{path.stem}.md").read_text(encoding="utf-8")
    assert all(heading in card for heading in ("Licence", "Size", "Check", "Get it", "Citation"))


def test_digits_from_their_configuration() -> None:
    splits = instantiate(OmegaConf.load(ROOT / "conf" / "data" / "digits.yaml"))
    assert splits.name == "digits" and splits.task.mean == (0.305,)
