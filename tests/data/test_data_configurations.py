"""Every data set has a configuration that hides nothing, and a card."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import pytest
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf

from testbed.launcher.compose import configuration, plain
from testbed.launcher.search import SearchPath

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATIONS = sorted(
    path for path in (ROOT / "conf" / "data").glob("*.yaml") if "testbed.data." in path.read_text(encoding="utf-8")
)
LANGUAGE = ("toy_reviews", "sst2", "ag_news", "text_table", "toy_world", "messages")
COMMANDS = sorted(
    {
        command
        for folder, kind in (("conf/data", "yaml"), ("conf/trainer", "yaml"), ("datasets", "md"))
        for path in (ROOT / folder).glob(f"*.{kind}")
        for command in re.findall(r"testbed (?:train|degrade)\b[^`\n]*", path.read_text(encoding="utf-8"))
    }
)
"""What the headers and the cards say to type."""


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
    assert f"\n| [{path.stem}]({path.stem}.md) | " in (ROOT / "datasets" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_lacks_nothing_and_attacks_texts_with_texts(command: str) -> None:
    _, verb, *words = shlex.split(command)
    config = plain(configuration(verb, words, SearchPath()).config)
    data = config["data"]["_target_"].rpartition(".")[2]
    on_images = config["attack"]["_target_"] == "testbed.attack.backdoor.Backdoor"
    assert on_images is not (data in LANGUAGE) or config["attack"]["_target_"].endswith(".NoAttack")


def test_digits_from_their_configuration() -> None:
    splits = instantiate(OmegaConf.load(ROOT / "conf" / "data" / "digits.yaml"))
    assert splits.name == "digits" and splits.task.mean == (0.305,)


@pytest.mark.parametrize("verb", ["train", "detect", "evaluate", "check"])
@pytest.mark.parametrize("data", ["toy_reviews", "sst2", "ag_news", "text_table"])
def test_texts_are_attacked_by_a_word_unless_another_attack_is_named(verb: str, data: str) -> None:
    for words, chosen in ((), "badnets_text"), (("attack=none",), "none"), (("attack=addsent",), "addsent"):
        assert configuration(verb, [f"data={data}", *words], SearchPath()).choices["attack"] == chosen
    assert configuration(verb, ["data=digits"], SearchPath()).choices["attack"] == "badnets"
