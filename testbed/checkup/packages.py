"""Python and the installed packages, held against what the installed testbed asks for."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from testbed.checkup.finding import INPUT, Finding

EXTRAS = {"lm": "chat models and pretrained encoders", "slurm": "jobs of a Slurm cluster"}
"""What people may leave out, and what for."""
INSTALL = "install testbed again (pip install testbed)"


def packages() -> Iterator[Finding]:
    """Whether every package is there in a version that will do."""
    try:
        asked = [Requirement(text) for text in requires("testbed") or ()]
        python = SpecifierSet(metadata("testbed").get("Requires-Python") or "")
    except PackageNotFoundError:
        yield Finding("warning", "packages", "testbed itself is not installed, so that no versions are asked for", INSTALL)
        return
    here = platform.python_version()
    if python.contains(here, prereleases=True):
        yield Finding("ok", "Python", here)
    else:
        yield Finding("problem", "Python", f"{here}, where {python} is asked for", "make an environment with another Python")
    wrong, count = unmet(asked, "")
    if wrong:
        yield Finding("problem", "packages", "; ".join(wrong), INSTALL, INPUT)
    else:
        yield Finding("ok", "packages", f"{count} in versions that will do")
    for extra, purpose in EXTRAS.items():
        wrong, count = unmet(asked, extra)
        if wrong:
            yield Finding("warning", f"[{extra}]", f"for {purpose}: {'; '.join(wrong)}", f"pip install 'testbed[{extra}]'")
        else:
            yield Finding("ok", f"[{extra}]", f"for {purpose}: {count} in versions that will do")


def unmet(asked: Iterable[Requirement], extra: str) -> tuple[list[str], int]:
    """What is missing or of another version among the requirements of an extra ('' is what all need), and how many are met."""
    wrong, met = [], 0
    for one in asked:
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        if extra and (one.marker is None or one.marker.evaluate({"extra": ""})):
            continue
        try:
            found = version(one.name)
        except PackageNotFoundError:
            wrong.append(f"{one.name} is not installed ({one.specifier})")
            continue
        if one.specifier.contains(found, prereleases=True):
            met += 1
        else:
            wrong.append(f"{one.name} is {found}, where {one.specifier} is asked for")
    return wrong, met
