"""Where configuration is looked for: testbed's own folder, the folder named with --config-dir, and installed plug-ins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from testbed import plain_yaml
from testbed.words import Refused, nearest

ENTRY_POINT_GROUP = "testbed.conf"
VERBS_DIRECTORY = Path(__file__).parent.parent
MOST_FILES = 20_000
"""What may lie below a user's folder: whoever names a whole disk is told so at once."""


class SearchPath:
    """Folders of configuration groups; the first is testbed's own, whose names cannot be taken by others."""

    def __init__(self, config_dir: str | None = None) -> None:
        self.own = own_folder()
        self.users = [*([_folder(config_dir)] if config_dir else []), *_plugins()]
        self._files = {folder: list(files_of(folder)) for folder in self.users}
        for path in (path for paths in self._files.values() for path in paths):
            read(path)  # within limits, before Hydra, which has none, sees it
        for group in self.groups():
            for folder in self.users:
                taken = sorted(set(_options(folder, group)) & set(_options(self.own, group)))
                if taken:
                    raise Refused(f"{folder / group / taken[0]}.yaml: {group}={taken[0]} is testbed's own name; rename yours")

    def groups(self) -> list[str]:
        """Names of all groups, nested ones as 'defence/rule'."""
        own = {path.parent.relative_to(self.own) for path in self.own.rglob("*.yaml")}
        users = {path.parent.relative_to(folder) for folder, paths in self._files.items() for path in paths}
        found = {str(place) for place in own | users if place.parts and not place.name.startswith((".", "_"))}
        return sorted(found)

    def options(self, group: str) -> dict[str, Path]:
        """The options of a group and the file of each."""
        return {name: path for folder in (*self.users, self.own) for name, path in sorted(_options(folder, group).items())}

    def require(self, group: str, option: str) -> None:
        """Raises `Refused` with the nearest name where the group has no such option."""
        names = sorted(self.options(group))
        if option not in names:
            raise Refused(f"{group}={option}: there is no such {group.rpartition('/')[2]}; {nearest(option, names)}")


def own_folder() -> Path:
    """`conf/`: inside the installed package, or beside it in a checkout.

    Raises:
        Refused: it is in neither place, which a broken installation would explain.
    """
    for folder in (VERBS_DIRECTORY / "conf", VERBS_DIRECTORY.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise Refused(f"testbed's configuration is not at {VERBS_DIRECTORY / 'conf'}; install testbed again", 4)


def description(path: Path) -> str:
    """The first comment line of a YAML file."""
    with path.open(encoding="utf-8") as stream:
        first = stream.readline().strip()
    return first.lstrip("# ") if first.startswith("#") else ""


def read(path: Path) -> Any:
    """What a file of configuration says, as plain data.

    Raises:
        Refused: it is no YAML, or more than is read.
    """
    try:
        return plain_yaml.read(path)
    except yaml.YAMLError as error:
        raise Refused(f"{error}; mend the file, or take it away") from error
    except OSError as error:
        raise Refused(f"{path}: it cannot be read ({error.strerror}); mend its permissions, or take it away") from error


def files_of(folder: Path) -> Iterator[Path]:
    """Every YAML file below a folder, links followed once, hidden folders left out.

    Raises:
        Refused: too many files lie there for it to be a folder of configuration.
    """
    seen, there = set[str](), 0
    for home, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(home)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        there += len(folders) + len(names)
        if there > MOST_FILES:
            raise Refused(f"{folder}: more than {MOST_FILES} files lie below it; say --config-dir=DIR, with the groups in it")
        yield from (Path(home, name) for name in sorted(names) if name.endswith(".yaml"))


def _options(folder: Path, group: str) -> dict[str, Path]:
    return {path.stem: path for path in (folder / group).glob("*.yaml")}


def _folder(config_dir: str) -> Path:
    folder = Path(config_dir).resolve()
    if not folder.is_dir():
        raise Refused(f"--config-dir={config_dir}: there is no such folder")
    return folder


def _plugins() -> Iterator[Path]:
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        spec = find_spec(point.value)
        if spec is None or not spec.submodule_search_locations:
            raise Refused(f"the plug-in {point.name} names the configuration package {point.value}, which is not installed")
        yield from map(Path, spec.submodule_search_locations)
