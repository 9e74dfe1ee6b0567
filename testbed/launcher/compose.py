"""From a command line to a configuration, and from a mistyped name to the nearest right one, before anything heavy is imported."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from testbed.launcher.search import SearchPath
from testbed.words import Refused, nearest

SAFE = re.compile(r"[A-Za-z0-9._-]{1,80}")
MOVED_BY_OUTPUTS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.chdir")


@dataclass(frozen=True)
class Composed:
    """A resolved configuration and the option chosen in each group."""

    config: DictConfig
    choices: Mapping[str, str]


def register(search: SearchPath) -> None:
    """Let Hydra find the users' folders too; `testbed.session` names this process in paths."""

    class UsersFolders(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in search.users:
                search_path.append(provider="testbed", path=f"file://{folder}")

    Plugins.instance().register(UsersFolders)
    session = uuid.uuid4().hex[:12]
    OmegaConf.register_new_resolver("testbed.session", lambda: session, replace=True)


def configuration(verb: str, overrides: Sequence[str], search: SearchPath) -> Composed:
    """The configuration of a verb under these overrides.

    Raises:
        Refused: it cannot be composed.
    """
    try:
        with initialize_config_dir(config_dir=str(search.own), version_base="1.3"):
            whole = compose(config_name=verb, overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(_one_line(error)) from error
    choices = {group: choice for group, choice in whole.hydra.runtime.choices.items() if not group.startswith("hydra/")}
    own = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
    return Composed(own, {group: str(choice) for group, choice in choices.items()})


def check_names(verb: str, overrides: Sequence[str], search: SearchPath) -> None:
    """Every group, option and key on the command line exists.

    Raises:
        Refused: the first that does not, with the nearest name.
    """
    parsed = [_parsed(text) for text in overrides]
    groups = search.groups()
    chosen = [override for override in parsed if override.key_or_group in groups]
    for override in chosen:
        for option in _options(override):
            if not SAFE.fullmatch(option):
                raise Refused(
                    f"{override.key_or_group}={option}: a name may hold letters, digits, '.', '_' and '-', 80 at most"
                )
            search.require(override.key_or_group, option)
    skeleton = configuration(verb, [_first_choice(override) for override in chosen], search).config
    for override in parsed:
        if override not in chosen and not override.is_add() and not override.key_or_group.startswith("hydra"):
            _require_key(override.key_or_group, skeleton, groups)
        if override.key_or_group in MOVED_BY_OUTPUTS:
            raise Refused(f"{override.key_or_group}: everything is written below paths.outputs; say paths.outputs= to move it")


def _parsed(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise Refused(f"{text}: this is not key=value ({_one_line(error)}); see testbed --help") from error


def _options(override: Override) -> list[str]:
    if override.is_delete():
        return []
    values = [item for item in override.sweep_string_iterator()] if override.is_sweep_override() else [override.value()]
    return [str(item) for value in values for item in (value if isinstance(value, list) else [value])]


def _first_choice(override: Override) -> str:
    options = _options(override)
    package = f"@{override.package}" if override.package else ""
    return f"{override.key_or_group}{package}={options[0]}" if options else str(override.input_line)


def _require_key(key: str, config: DictConfig, groups: Sequence[str]) -> None:
    node: Any = config
    walked: list[str] = []
    for part in key.split("."):
        names = [str(name) for name in node] if OmegaConf.is_dict(node) else []
        if OmegaConf.is_list(node) and part.isdigit() and int(part) < len(node):
            names = [part]
        if part not in names:
            known = names + ([group for group in groups if "/" in group] if not walked else [])
            where = ".".join(walked)
            hint = nearest(part, sorted(known)) if known else f"{where} has no keys below it"
            raise Refused(f"{key}: there is no such key{f' in {where}' if where else ''}; {hint}")
        node = node._get_node(int(part) if OmegaConf.is_list(node) else part)
        walked.append(part)


def _one_line(error: Exception) -> str:
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
        raise Refused(_one_line(error)) from error
