"""`testbed doctor`: whether a machine, a data root and an output folder will do, before an hour is spent on finding out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from testbed import plain_yaml
from testbed.checkup.data_root import data_root
from testbed.checkup.finding import Finding
from testbed.checkup.libraries import pytorch
from testbed.checkup.machine import machine
from testbed.checkup.output_folder import output_folder
from testbed.checkup.packages import packages
from testbed.launcher.grid import outputs_of
from testbed.launcher.search import SearchPath
from testbed.plan import key_of
from testbed.words import Refused, nearest

ROOTS = ("data.root", "paths.data")
"""Both name the folder in which data sets are looked for."""
KEYS = (*ROOTS, "paths.outputs")


def doctor(words: Sequence[str], flags: Mapping[str, str], search: SearchPath) -> int:
    """Print a line for everything looked at; 0 where all will do, else 2 (what was named) or 4 (what the machine has).

    Nothing is changed, and nothing is left behind.

    Raises:
        Refused: a word that is none of `KEYS`, or is given twice.
    """
    given = _given(words)
    problems: list[Finding] = []
    warnings = 0
    for finding in _looked_at(given, outputs_of(words, search), search):
        print(finding, flush=True)
        problems += [finding] if finding.mark == "problem" else []
        warnings += finding.mark == "warning"
    besides = f", {_counted(warnings, 'warning')}" if warnings else ""
    if problems:
        print(f"{_counted(len(problems), 'problem')}{besides}: {', '.join(problem.what for problem in problems)}")
        return max(problem.code for problem in problems)
    print(f"no problem{besides}: testbed can run here")
    return 0


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _looked_at(given: Mapping[str, str], outputs: str, search: SearchPath) -> Iterator[Finding]:
    key = next((key for key in ROOTS if key in given), "data.root")
    yield from packages()
    yield from pytorch()
    yield from machine()
    yield from data_root(Path(given.get(key) or _usual_root(search)), key, named=key in given)
    yield from output_folder(Path(outputs))


def _given(words: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = key_of(word), *word.partition("=")[1:]
        if key not in KEYS or not equals:
            raise Refused(f"{word}: testbed doctor looks at {', '.join(KEYS)}; {nearest(key, KEYS)}")
        if not value:
            raise Refused(f"{word}: name a folder")
        if key in given or (key in ROOTS and set(ROOTS) & set(given)):
            raise Refused(f"{word}: the folder is named twice; say it once")
        given[key] = value
    return given


def _usual_root(search: SearchPath) -> str:
    """Where `conf/base.yaml` says that data lie: the variable that it reads, or the folder behind the comma."""
    told = str(plain_yaml.read(search.own / "base.yaml")["paths"]["data"])
    variable, _, folder = told.removeprefix("${oc.env:").removesuffix("}").partition(",")
    return os.environ.get(variable) or folder
