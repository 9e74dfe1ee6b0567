"""Every method that is shipped keeps what its noun promises, and its configuration hides nothing."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from testbed.cli import parsed
from testbed.contract.examination import GROUPS, examine
from testbed.contract.world import World, small
from testbed.launcher.compose import check_names, configuration, plain, register
from testbed.launcher.everything import FOR_MODELS
from testbed.launcher.instantiate import instantiate
from testbed.launcher.search import SearchPath

CONF = Path(__file__).resolve().parent.parent / "conf"
METHODS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
RECIPES = sorted(path for group in (*GROUPS, "defence/rule") for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module")
def search() -> SearchPath:
    found = SearchPath()
    register(found)
    return found


def _world(search: SearchPath, *overrides: str) -> World:
    config = plain(configuration("check", overrides, search).config)
    data, model, attack, trainer = (instantiate(config[key], key) for key in ("data", "model", "attack", "trainer"))
    return World(small(data), model, attack, trainer, 0)


@pytest.fixture(scope="module")
def world(search: SearchPath) -> World:
    return _world(search)


@pytest.fixture(scope="module")
def colour_world(search: SearchPath, tmp_path_factory: pytest.TempPathFactory) -> World:
    return _world(search, *FOR_MODELS, f"paths.outputs={tmp_path_factory.mktemp('icons')}")


def _node(group: str, name: str, search: SearchPath) -> Any:
    """The configuration of a method; what a user must give, as where a model lies, is not there."""
    chosen = f"{group}={name}"
    missing = sorted(OmegaConf.missing_keys(configuration("check", [chosen], search).config))
    return plain(configuration("check", [chosen, *(f"{key}=nowhere" for key in missing)], search).config)[group]


@pytest.mark.parametrize(("group", "name"), METHODS)
def test_a_shipped_method_keeps_its_promises(
    group: str, name: str, search: SearchPath, world: World, request: pytest.FixtureRequest
) -> None:
    node = _node(group, name, search)
    there = request.getfixturevalue("colour_world") if group == "model" else world
    verdicts = examine(group, name, instantiate(node, group), there)
    assert [verdict for verdict in verdicts if verdict.kept is False] == []
    assert len(verdicts) > 3 or verdicts[-1].kept is None


@pytest.mark.parametrize(("group", "name"), METHODS)
def test_a_configuration_hides_no_parameter(group: str, name: str, search: SearchPath) -> None:
    node = _node(group, name, search)
    assert list(_hidden(node)) == []


def _hidden(node: Any) -> Iterator[str]:
    """Parameters of our classes that a node leaves to their defaults."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _hidden(child)
    if isinstance(node, dict) and node.get("_target_", "").startswith("testbed."):
        module, _, attribute = node["_target_"].rpartition(".")
        for parameter in inspect.signature(getattr(import_module(module), attribute)).parameters.values():
            by_caller = node.get("_partial_", False) and parameter.default is parameter.empty
            if not by_caller and parameter.name not in node:
                yield f"{attribute}.{parameter.name}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_configuration_says_what_it_is_and_how_to_run_it(path: Path, search: SearchPath) -> None:
    first, second = path.read_text(encoding="utf-8").splitlines()[:2]
    assert first.startswith("# ") and len(first) > 10
    words = shlex.split(second.removeprefix("# "))
    assert (words[:1] == ["testbed"] and f"={path.stem}" in second) or path.parent.name == "trigger"
    given = parsed(words[1:])
    check_names(str(given.verb), given.overrides, search)
