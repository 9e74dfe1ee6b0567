"""Names completed by the shell: the verb and our flags here, everything after them by Hydra's own completion."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.completion_plugin import CompletionPlugin
from omegaconf.errors import OmegaConfBaseException

from testbed.launcher.compose import register
from testbed.launcher.search import SearchPath
from testbed.words import Refused, nearest

ACTIONS = ("install", "uninstall", "query")
FLAGS = ("--help", "--multirun", "--config-dir", "--cfg", "--debug", "--dry-run", "--version")
STARTS_RUNS = ("benchmark", "tune")
"""Verbs whose words are no overrides of one configuration: what stands before the last word is not asked of Hydra."""
FOLDER_FLAGS = ("--config-dir", "-cd")
APPLICATION = "testbed"


def complete(action: str, verbs: Sequence[str]) -> int:
    """Obey Hydra's protocol: `install=SHELL` and `uninstall=SHELL` print what the shell evaluates, `query=SHELL` prints names.

    A query reads the line from the variables COMP_LINE and COMP_POINT.

    Raises:
        Refused: an unknown action or shell.
    """
    wanted, _, shell = action.partition("=")
    plugins: list[Any] = list(Plugins.instance().discover(CompletionPlugin))
    shells = {plugin.provides(): plugin for plugin in plugins}
    if wanted not in ACTIONS:
        raise Refused(f"-sc {action}: there is no such action; {nearest(wanted, ACTIONS)}")
    if shell not in shells:
        raise Refused(f"-sc {action}: there is no completion for this shell; {nearest(shell, sorted(shells))}")
    if wanted == "query":
        print(("\n" if shell == "fish" else " ").join(_candidates_or_none(_line(), verbs)))
        return 0
    if wanted == "uninstall" and shell != "fish":
        print(f"complete -r {APPLICATION}")  # Hydra's own leaves the rule, which would call a function that is gone
    with _called(APPLICATION):
        getattr(shells[shell](None), wanted)()
    return 0


def _candidates_or_none(line: str, verbs: Sequence[str]) -> list[str]:
    """Whoever presses TAB wants names: what is wrong earlier in the line is said when the command is run."""
    try:
        return candidates(line, verbs)
    except (Refused, HydraException, OmegaConfBaseException):
        return []


def candidates(line: str, verbs: Sequence[str]) -> list[str]:
    """What the last word of a command line may become; nothing where the shell shall offer its files.

    Raises:
        Refused, HydraException, OmegaConfBaseException: something earlier in the line is wrong.
    """
    words = line.split()[1:]
    word = words.pop() if words and not line.endswith(" ") else ""
    given, config_dir = _without_flags(words)
    if words and words[-1] in FOLDER_FLAGS:
        return []
    if word.startswith("-"):
        return [flag for flag in FLAGS if flag.startswith(word)]
    if not given:
        return [verb for verb in verbs if verb.startswith(word)]
    search = SearchPath(config_dir)
    if given[0] == "list":
        return [group for group in search.groups() if group.startswith(word)]
    return _after_verb(given[0], given[1:], word, search) if given[0] in verbs else []


def _without_flags(words: Sequence[str]) -> tuple[list[str], str | None]:
    """The verb and the overrides, and the folder that --config-dir names."""
    given: list[str] = []
    config_dir = None
    rest = iter(words)
    for word in rest:
        name, _, value = word.partition("=")
        if name in FOLDER_FLAGS:
            config_dir = value or next(rest, None)
        elif name in ("--cfg", "-c"):
            value or next(rest, None)
        elif not word.startswith("-"):
            given.append(word)
    return given, config_dir


def _after_verb(verb: str, overrides: Sequence[str], word: str, search: SearchPath) -> list[str]:
    """Groups, options, keys and present values, as Hydra finds them; of a list `a=x,y` the last item is completed."""
    asked = word.replace("defense", "defence", 1) if word.startswith("defense") else word
    head, comma, last = asked.rpartition(",")
    key = f"{head.partition('=')[0]}=" if comma and "=" in head else ""
    asked = f"{key}{last}" if key else asked
    spelt = f"{word.rpartition(',')[0]}," if key else ""
    known = _asked_of_hydra(verb, () if verb in STARTS_RUNS else overrides, asked, search)
    wanted = (name for name in known if name.startswith(asked) and not _is_noise(name, asked))
    found = [spelt + name.removeprefix(key) for name in wanted]
    return [name.replace("defence", "defense", 1) for name in found] if word.startswith("defense") else found


def _asked_of_hydra(verb: str, overrides: Sequence[str], word: str, search: SearchPath) -> list[str]:
    register(search)
    # --multirun lets Hydra skip the sweeps among the earlier words, where it would otherwise refuse them.
    line = " ".join([APPLICATION, "--multirun", *overrides, word])
    answer = StringIO()
    with initialize_config_dir(config_dir=str(search.own), version_base="1.3"), redirect_stdout(answer), _typed(line):
        GlobalHydra.instance().hydra.shell_completion(verb, ["query=fish"])  # type: ignore[union-attr]
    nested = {group.rpartition("/")[0] for group in search.groups()}
    # Hydra leaves it open how the name of a group goes on that has options and groups of its own.
    return [full for name in answer.getvalue().split() for full in ([f"{name}=", f"{name}/"] if name in nested else [name])]


def _is_noise(name: str, asked: str) -> bool:
    """Whether Hydra went into a list (`key=0=` is no override), or offers its own settings unasked."""
    return (asked.endswith("=") and name.endswith(("=", "."))) or (name.startswith("hydra") and not asked.startswith("h"))


def _line() -> str:
    """The command line up to the cursor."""
    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    return line[: int(point)] if point.isdigit() else line


@contextmanager
def _typed(line: str) -> Iterator[None]:
    """Hydra reads this as the line that was typed."""
    before = dict(os.environ)
    os.environ["COMP_LINE"] = line
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _called(name: str) -> Iterator[None]:
    """Hydra's scripts call the program that sys.argv names."""
    before = sys.argv
    sys.argv = [name]
    try:
        yield
    finally:
        sys.argv = before
