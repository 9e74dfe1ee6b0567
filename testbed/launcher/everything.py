"""`testbed check`: data that suit what is checked; and without a name, every method of every group in one process."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from testbed.launcher.compose import configuration, plain
from testbed.launcher.job import Ended, Job, ended
from testbed.launcher.search import SearchPath

FOR_MODELS = ("data=icons", "data.train_size=700", "data.test_size=100")
"""Colour images of 32 pixels, which every shipped model of images can read, unless the user names other data."""

HERE = "elsewhere=false"
"""Keeps to the data that the user named."""

PARTS = ("data", "model", "attack", "trainer")
"""What a world is made of."""


def suited(overrides: Sequence[str]) -> list[str]:
    """The overrides, with what they leave open: where models are named and no data, colour images to begin with.

    Where data are named, nothing is tried elsewhere, whether or not the method applies to them.
    """
    keys = [re.split(r"[=@]", word.lstrip("+~"), maxsplit=1)[0] for word in overrides]
    roots = {key.partition(".")[0] for key in keys}
    here = [HERE] if "data" in roots and "elsewhere" not in roots else []
    models = FOR_MODELS if "model" in roots and not {"data", "data._target_"} & set(keys) else ()
    return [*here, *models, *overrides]


def parts(overrides: Sequence[str], paths: Mapping[str, str]) -> dict[str, Any]:
    """Data, model, attack and trainer of `testbed check` under these overrides, made; files lie where `paths` says."""
    from testbed.launcher.instantiate import instantiate

    config = configuration("check", overrides, SearchPath()).config
    OmegaConf.update(config, "paths", dict(paths))
    values = plain(config)
    return {part: instantiate(values[part], part) for part in PARTS}


def all_parts(overrides: Sequence[str], search: SearchPath) -> list[dict[str, Any]]:
    """What the world that a check begins with is made of under these overrides, and those that it goes on to."""
    from testbed.launcher.instantiate import instantiate

    config = plain(configuration("check", overrides, search).config)
    first = {part: instantiate(config[part], part) for part in PARTS}
    return [first, *(make() for make in instantiate(config["worlds"], "worlds"))]


def method_node(group: str, name: str, search: SearchPath, given: object = "nowhere") -> Any:
    """The configuration of a method; `given` stands for what a user must give, as where a model lies."""
    chosen = f"{group}={name}"
    missing = sorted(OmegaConf.missing_keys(configuration("check", [chosen], search).config))
    return plain(configuration("check", [chosen, *(f"{key}={given}" for key in missing)], search).config)[group]


def check_everything(job: Job, overrides: Sequence[str], search: SearchPath) -> int:
    """Check each option of each group of methods, with the other overrides; 0 if all is well, otherwise 1.

    A method that must be told something, as where a model lies, is named and passed over. What is refused and is no value of
    the method's own would be refused for every other as well: it is said once, and its exit code is the answer.
    """
    from testbed.contract.examination import GROUPS

    methods = [f"{group}={name}" for group in GROUPS for name in search.options(group)]
    bad = []
    for method in methods:
        judged = _judged(job, suited([*overrides, method]), search)
        if judged.status == "refused" and not judged.message.removeprefix("error: ").startswith(method.partition("=")[0]):
            return judged.code
        bad += [method] if judged.code else []
    print(f"not as promised: {', '.join(bad)}" if bad else "all methods examined keep their promises", file=sys.stderr)
    return 1 if bad else 0


def _judged(job: Job, overrides: Sequence[str], search: SearchPath) -> Ended:
    missing = sorted(OmegaConf.missing_keys(configuration("check", overrides, search).config))
    if missing:
        print(f"{overrides[-1]}: not checked, for {', '.join(missing)} must be given", file=sys.stderr)
        return Ended(0)
    return ended(_job(job, overrides, search))


def _job(job: Job, overrides: Sequence[str], search: SearchPath) -> Job:
    composed = configuration("check", overrides, search)
    command = ("testbed", "check", *overrides)
    return replace(job, config=plain(composed.config), choices=composed.choices, command=command)
