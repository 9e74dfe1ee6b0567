"""From a command line to a configuration, and from a mistyped name to the nearest right one."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from testbed.error import shortened
from testbed.launcher.search import SearchPath
from testbed.words import NAME, NAMING, Refused, nearest

SEARCHED = "hydra.searchpath"
MOVED_BY_OUTPUTS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.chdir")


@dataclass(frozen=True)
class Composed:
    """A resolved configuration and the option chosen in each group."""

    config: DictConfig
    choices: Mapping[str, str]


class UsersFolders(SearchPathPlugin):
    """The users' folders of configuration, looked at after testbed's own."""

    folders: ClassVar[Sequence[Path]] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in self.folders:
            search_path.append(provider="testbed", path=f"file://{folder}")


def register(search: SearchPath) -> None:
    """Let Hydra find the users' folders too; `testbed.session` names this command in paths."""
    UsersFolders.folders = tuple(search.users)
    Plugins.instance().register(UsersFolders)
    session = uuid.uuid4().hex[:12]
    OmegaConf.register_new_resolver("testbed.session", lambda: session, replace=True)


def configuration(verb: str, overrides: Sequence[str], search: SearchPath) -> Composed:
    """The configuration of a verb under these overrides.

    Raises:
        Refused: it cannot be composed.
    """
    for text in overrides:
        if parsed(text).is_sweep_override():
            raise Refused(f"{text}: several values make a sweep; say -m, or quote a value that has a comma in it")
    try:
        with initialize_config_dir(config_dir=str(search.own), version_base="1.3"):
            whole = compose(config_name=verb, overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(one_line(error)) from error
    own = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
    return Composed(own, chosen(whole.hydra.runtime.choices, overrides))


def composed(verb: str, overrides: Sequence[str], search: SearchPath) -> Composed:
    """The configuration of a verb once every name on the command line is known to exist.

    Raises:
        Refused: a name that does not, with the nearest; or it cannot be composed.
    """
    given = [parsed(text) for text in overrides]
    _options_of(given, search)
    if not any(override.is_add() or override.is_force_add() for override in given):
        # Hydra refuses unknown keys itself: names are walked only to say what is near, for composing twice takes a while.
        with suppress(Refused):
            return configuration(verb, overrides, search)
    check_names(verb, overrides, search)
    return configuration(verb, overrides, search)


def chosen(choices: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """The option of each group, of Hydra's `choices`; where the user named a class instead, the name of that class."""
    named = {group: str(choice) for group, choice in choices.items() if not group.startswith("hydra/")}
    for override in map(parsed, overrides):
        group, _, last = override.key_or_group.rpartition(".")
        if last == "_target_" and group in named:
            named[group] = str(values(override)[0]).rpartition(".")[2]
    return named


def check_names(verb: str, overrides: Sequence[str], search: SearchPath) -> None:
    """Every group, option and key on the command line exists.

    Raises:
        Refused: the first that does not, with the nearest name.
    """
    given = [parsed(text) for text in overrides]
    groups = search.groups()
    options = _options_of(given, search)
    _require_groups(verb, given, options, search)
    skeleton = configuration(verb, options, search).config
    for override in given:
        key = override.key_or_group
        choosing = key in groups
        if override.is_add() or override.is_force_add():
            _require_key((override.package or key).partition(".")[0], skeleton, groups)
        elif not choosing and not override.is_hydra_override():
            _require_key(key, skeleton, groups)
        if not choosing and not (verb == "tune" and override.is_interval_sweep()):
            values(override)


def _options_of(given: Sequence[Override], search: SearchPath) -> list[str]:
    """What chooses options among the overrides, the first of each sweep, once all are known to exist."""
    for override in given:
        key = override.key_or_group
        if any(moved == key or moved.startswith(f"{key}.") for moved in MOVED_BY_OUTPUTS):
            raise Refused(f"{key}: everything is written below paths.outputs; say paths.outputs= to move it")
        if key == SEARCHED:
            raise Refused(f"{key}: a folder of configuration is named with --config-dir=DIR")
    groups = search.groups()
    return [_first_choice(override, search) for override in given if override.key_or_group in groups]


@lru_cache(maxsize=4096)
def parsed(text: str) -> Override:
    """An override by Hydra's grammar.

    Raises:
        Refused: it is none.
    """
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        quoted = "put the value in quotes within quotes, \"KEY='VALUE'\"" if "token recognition" in str(error) else ""
        advice = quoted or "see testbed --help"
        raise Refused(f"{shortened(text)}: this is not key=value ({shortened(one_line(error))}); {advice}") from error


def values(override: Override) -> list[Any]:
    """What an override says: one value, or each of a sweep; none where it deletes.

    Raises:
        Refused: the sweep cannot be listed, or is empty.
    """
    if not override.is_sweep_override():
        return [] if override.is_delete() else [override.value()]
    try:
        listed = list(override.sweep_string_iterator())
    except (HydraException, ValueError) as error:
        raise Refused(f"{override.input_line}: {one_line(error)}") from error
    if not listed:
        raise Refused(f"{override.input_line}: there is no value in it")
    return listed


def _first_choice(override: Override, search: SearchPath) -> str:
    """The override with the first of its options, once all of them are known to exist."""
    group, wanted = override.key_or_group, override.value()
    names = sorted(search.options(group))
    if isinstance(wanted, Glob):
        options: list[Any] = wanted.filter(names)
        if not options:
            raise Refused(f"{override.input_line}: no option has such a name; {nearest('', names)}")
    else:
        options = [item for value in values(override) for item in (value if isinstance(value, list) else [value])]
    for option in options:
        name = "null" if option is None else str(option)
        if not NAME.fullmatch(name):
            raise Refused(f"{group}={name}: {NAMING}")
        search.require(group, name)
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.get_key_element()}={options[0]}"


def _require_groups(verb: str, given: Sequence[Override], options: Sequence[str], search: SearchPath) -> None:
    """Every group chosen from is one of the verb's, and a nested one is one of the option above it.

    Not looked at is what a '+' adds, and what names a place of its own (trigger@attack.trigger=blend).
    """
    plainly = [override for override in given if not (override.is_add() or override.is_force_add() or override.package)]
    groups, own = search.groups(), configuration(verb, [], search).choices
    asked = [(override, override.key_or_group) for override in plainly if override.key_or_group in groups]
    for override, group in asked:
        if group.partition("/")[0] not in own:
            advice = f"choose from {', '.join(sorted(own))}" if own else "it chooses nothing"
            raise Refused(f"{override.input_line}: testbed {verb} has no such group; {advice}")
    if any("/" in group for _, group in asked):
        there = configuration(verb, [text for text in options if "/" not in text.partition("=")[0]], search).choices
        for override, group in asked:
            top = group.partition("/")[0]
            if group not in there:
                raise Refused(f"{override.input_line}: {top}={there[top]} has no such group; choose another {top}")


def _require_key(key: str, config: DictConfig, groups: Sequence[str]) -> None:
    node: Any = config
    walked: list[str] = []
    for part in key.split("."):
        names = [str(name) for name in node] if OmegaConf.is_dict(node) else []
        if OmegaConf.is_list(node) and part.isdigit() and int(part) < len(node):
            names = [part]
        if part not in names:
            raise Refused(f"{key}: there is no such key{_where(walked)}; {_hint(part, walked, names, groups)}")
        node = node._get_node(int(part) if OmegaConf.is_list(node) else part)
        walked.append(part)


def _where(walked: Sequence[str]) -> str:
    return f" in {'.'.join(walked)}" if walked else ""


def _hint(part: str, walked: Sequence[str], names: Sequence[str], groups: Sequence[str]) -> str:
    if not walked and part in groups:
        return f"say {part}=NAME as well"
    known = [*names, *(group for group in groups if not walked and group.partition("/")[0] in names and "/" in group)]
    return nearest(part, sorted(known)) if known else f"{'.'.join(walked)} has no keys below it"


def one_line(error: Exception) -> str:
    """The first line of what an error of a library says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, interpolations resolved.

    Raises:
        Refused: a value that must be given is not.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise Refused(f"{missing[0]}: must be given; say {missing[0]}=...")
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise Refused(one_line(error)) from error
