"""Names are checked at once: a mistyped one is answered with the nearest, before anything heavy is imported."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed import __version__
from testbed.cli import main, parsed
from testbed.launcher.compose import check_names, configuration, plain, register
from testbed.launcher.grid import grid
from testbed.launcher.search import SearchPath
from testbed.manual import EXAMPLES, GROUPS, VERBS

Say = Callable[..., Any]
CONFIGURATION = sorted(SearchPath().own.rglob("*.yaml"))
MISTYPED = {
    "trian attack=badnets": "trian: there is no such verb; did you mean train?",
    "detct": "did you mean detect?",
    "lst": "did you mean list?",
    "repotr": "did you mean report?",
    "attack=badnets": "choose from train, detect",
    "-m": "a verb is missing; choose from train",
    "train --multrun": "--multrun: there is no such option; did you mean --multirun?",
    "detect --dbug": "did you mean --debug?",
    "list --hepl": "did you mean --help?",
    "report --config": "did you mean --config-dir?",
    "train --config-dir": "--config-dir: a value must follow",
    "train --config-dir nowhere": "--config-dir=nowhere: there is no such folder",
    "train --cfg hydra": "say --cfg job",
    "train atack=badnets": "atack: there is no such key; did you mean attack?",
    "train attack=badnet": "attack=badnet: there is no such attack; did you mean badnets?",
    "train -m attack=none,badnet": "attack=badnet: there is no such attack; did you mean badnets?",
    "train -m attack=glob(x*)": "no option has such a name; choose from adaptive_blend",
    "train attack=null": "attack=null: there is no such attack",
    "train defense=fine_prunning": "defence=fine_prunning: there is no such defence; did you mean fine_pruning?",
    "train defence=filter defence/rule=publishd": "did you mean published?",
    "train defence/rul=published": "did you mean defence/rule?",
    "detect detector=stripp": "did you mean strip?",
    "train model=resnet": "did you mean resnet",
    "train data=cifar": "did you mean cifar10",
    "train attack.poison_rat=0.1": "attack.poison_rat: there is no such key in attack; did you mean poison_rate?",
    "train attack.trigger.sise=3": "attack.trigger.sise: there is no such key in attack.trigger; did you mean size?",
    "train attack.poison_rate.x=3": "attack.poison_rate has no keys below it",
    "train data.mean.7=0.5": "data.mean has no keys below it",
    "train trainer.optimiser.lrr=1": "did you mean lr?",
    "train ~attack.trigr": "did you mean trigger?",
    "train detector.layer=x": "say detector=NAME as well",
    "train seeds=1": "seeds: there is no such key; did you mean seed?",
    "train +seeds=1": "seeds: there is no such key; did you mean seed?",
    "train seed": "seed: this is not key=value",
    "train seed=[1": "seed=[1: this is not key=value",
    "train attack=none,badnets": "several values make a sweep; say -m",
    "train -m seed=range(2,2)": "seed=range(2,2): there is no value in it",
    "train -m seed=range(0,2,0)": "seed=range(0,2,0): ",
    "train -m seed=interval(0,1)": "seed=interval(0,1): ",
    "list atack": "atack: there is no such group; did you mean attack?",
    "check defence=fine_tunin": "did you mean fine_tuning?",
    "detect defence=filter": "defence=filter: testbed detect has no such group; choose from attack, data, detector,",
    "detect -m defence=none,filter": "defence=none,filter: testbed detect has no such group; choose from attack,",
    "report attack=badnets": "attack=badnets: testbed report has no such group; it chooses nothing",
    "train defence/rule=published": "defence/rule=published: defence=none has no such group; choose another defence",
    "detect foo=1": "foo: there is no such key; choose from attack, data, detector, logger, model, paths, seed, trainer",
    "report foo=1": "foo: there is no such key; choose from format, measures, paths, runs, seed",
    "evaluate rns=x": "rns: there is no such key; did you mean runs?",
    "report formt=html": "formt: there is no such key; did you mean format?",
}


@pytest.mark.parametrize("words", MISTYPED)
def test_the_nearest_name_is_offered_in_one_line(words: str, say: Say, here: Path) -> None:
    said = say(*shlex.split(words))
    assert said.code == 2
    assert MISTYPED[words] in said.refusal()
    assert said.out == ""
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    ["trian", "train --multrun", "train attack=badnet", "train attack.poison_rat=1", "detect -m detector=strip,stripp", "lst"],
)
def test_a_mistyped_name_costs_less_than_a_second(words: str, spawn: Say) -> None:
    said = spawn(*shlex.split(words))
    assert (said.code, said.out) == (2, "heavy:\n")
    assert said.refusal()
    assert said.seconds < 1


@pytest.mark.parametrize("words", [["list"], ["train", "--help"], ["--version"], ["train", "defence=filter", "--cfg", "job"]])
def test_looking_things_up_costs_less_than_a_second(words: list[str], spawn: Say) -> None:
    said = spawn(*words)
    assert (said.code, said.err) == (0, "")
    assert said.out.endswith("heavy:\n")
    assert said.seconds < 1


def test_groups_that_an_option_brings_can_be_swept(here: Path) -> None:
    search = SearchPath()
    register(search)
    check_names("train", ["trigger@attack.trigger=patch,blend", "defence=filter", "defence/rule=published"], search)
    check_names("report", ["+attack=badnets"], search)


def test_defense_is_defence(say: Say) -> None:
    said = say("train", "defense=fine_tuning", "defense.epochs=3", "defense.optimiser.lr=0.5", "--cfg", "job")
    assert said.code == 0
    defence = yaml.safe_load(said.out)["defence"]
    assert (defence["_target_"], defence["epochs"], defence["optimiser"]["lr"]) == (
        "testbed.defence.fine_tuning.FineTuning",
        3,
        0.5,
    )
    assert say("train", "defense=filter", "defense/rule=fixed_fraction", "--cfg", "job").code == 0
    assert say("list", "defense").out == say("list", "defence").out


def test_the_configuration_is_shown_whole(say: Say) -> None:
    said = say("--cfg", "job", "detect", "attack=blended", "seed=3")
    shown = yaml.safe_load(said.out)
    assert (said.code, said.err, shown["seed"]) == (0, "", 3)
    assert shown["attack"]["trigger"]["_target_"] == "testbed.trigger.blend.Blend"
    assert "hydra" not in shown


def test_a_model_alone_is_checked_on_data_that_it_can_read(say: Say) -> None:
    for words, data in (
        (["model=vgg19_bn"], "icons"),
        (["model=vgg19_bn", "data=digits"], "digits"),
        (["attack=none"], "digits"),
    ):
        shown = yaml.safe_load(say("check", *words, "--cfg", "job").out)
        assert shown["data"]["_target_"] == f"testbed.data.{data}.{data}"


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_examples_whose_names_exist(verb: str, say: Say) -> None:
    said = say(verb, "--help")
    assert (said.code, said.err) == (0, "")
    lines = [line for line in said.out.splitlines() if line.startswith("  testbed ")]
    assert lines == EXAMPLES[verb].splitlines()
    for line in lines:
        _check_names(line)
        _check_given(line)


@pytest.mark.parametrize("verb", ["train", "detect", "degrade", "evaluate", "report", "check"])
def test_help_names_the_groups_that_the_verb_has(verb: str, say: Say) -> None:
    own = {group for group in configuration(verb, [], SearchPath()).choices if not re.search("[/@]", group)}
    shown = re.findall(r"^groups: (.*) \(", say(verb, "--help").out, re.MULTILINE)
    assert {name for names in shown for name in names.split()} == own and set(GROUPS) < set(VERBS)


@pytest.mark.parametrize("path", CONFIGURATION, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_configuration_says_what_it_is_and_how_to_run_it(path: Path) -> None:
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    assert re.match(r"# \w", first)
    if path.name != "base.yaml":
        _check_names(second.removeprefix("# "))


def _check_names(line: str) -> None:
    """A command of the documentation, whose remark, if any, stands two spaces apart."""
    application, *words = shlex.split(re.split(r"\s{2,}", line.strip())[0])
    given, search = parsed(words), SearchPath()
    assert application == "testbed"
    if given.verb in ("list", "new"):
        assert set(given.overrides[:1]) <= set(search.groups())
        return
    if given.verb == "doctor":  # whose own test reads them
        return
    if given.verb == "whatis":
        assert given.overrides[0].startswith(("model", "corpus"))
        return
    if given.verb == "export":  # whose words on data change those of the run
        given.overrides = [word for word in given.overrides if not word.startswith("data.")]
    if given.verb == "benchmark":
        grid([word.replace("mine", "fine_tuning") for word in given.overrides], search)  # stands for a method of the reader's
        return
    register(search)
    check_names(str(given.verb), given.overrides, search)


def _check_given(line: str) -> None:
    """Nothing that must be given is left out of a command of the documentation."""
    _, verb, *words = shlex.split(re.split(r"\s{2,}", line.strip())[0])
    if verb not in ("list", "new", "benchmark", "whatis", "doctor"):
        kept = [word for word in words if word != "-m" and "," not in word and (verb, word[:5]) != ("export", "data.")]
        plain(configuration(verb, kept, SearchPath()).config)


def test_the_overview_names_every_verb(say: Say) -> None:
    for words in ([], ["--help"], ["-h"]):
        said = say(*words)
        assert (said.code, said.err) == (0, "")
        assert all(f"\n  {verb} " in said.out for verb in VERBS)
    assert say("--version").out == f"testbed {__version__}\n"


def test_list_shows_every_option_or_those_of_one_group(say: Say) -> None:
    whole, attacks = say("list").out, say("list", "attack").out
    for path in CONFIGURATION:
        if path.parent != SearchPath().own:
            assert re.search(rf"^{path.stem} ", whole, re.MULTILINE), path
    assert "badnets" in attacks
    assert "Gu et al. 2017" in attacks
    assert "strip" not in attacks


def test_a_command_leaves_the_process_as_it_was(here: Path) -> None:
    before = list(sys.path), list(sys.argv), here
    (here / "mine").mkdir()
    assert main(["train", "seed=abc"]) == 2
    assert main(["train", "--config-dir", "mine", "attack=none", "--cfg", "job"]) == 0
    assert (list(sys.path), list(sys.argv), Path.cwd()) == before
    (here / "mine").rmdir()
    assert main(["train", "--cfg", "job"]) == 0
