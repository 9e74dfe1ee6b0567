"""The suites that are shipped: every run of each can be composed, and the commands in their headers are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.launcher.compose import configuration, register
from testbed.launcher.grid import grid
from testbed.launcher.search import SearchPath, own_folder
from testbed.plan import Choice, planned
from testbed.suite import read_suite

SUITES = sorted((own_folder() / "suite").glob("*.yaml"))
MUST_GIVE = "data.root=somewhere"


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_suite_asks_for_runs_that_can_be_composed(path: Path) -> None:
    suite, search = read_suite(path), SearchPath()
    register(search)
    plan = planned(suite, Choice())
    assert plan.departures == ()
    # One run of each attack, method and world, and the attacks to tune on: the rest are these, recombined.
    few = {(request.world, request.attack): request for request in plan.requests}
    few |= {(request.world, request.method, None): request for request in plan.requests}
    for request in few.values():
        found = configuration(request.verb, request.overrides, search)
        assert found.choices[suite.kind] == (found.choices[suite.kind] or request.method)
    for part in suite.dev.values():
        for world in part.worlds or suite.worlds:
            configuration(suite.verb, (*suite.settings, *suite.worlds[world].settings, *part.settings), search)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_the_header_of_a_suite_names_the_command_that_runs_it(path: Path) -> None:
    command = path.read_text(encoding="utf-8").splitlines()[1].removeprefix("# testbed benchmark ")
    words = [word for word in command.split("  ")[0].split() if "=" in word]
    assert grid(words, SearchPath()).whole.suite == read_suite(path)
