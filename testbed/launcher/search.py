"""Where configuration is looked for: testbed's own folder, the folder named with --config-dir, and installed plug-ins."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from testbed.words import Refused, nearest

ENTRY_POINT_GROUP = "testbed.conf"
VERBS_DIRECTORY = Path(__file__).parent.parent


class SearchPath:
    """Folders of configuration groups; the first is testbed's own, whose names cannot be taken by others."""

    def __init__(self, config_dir: str | None = None) -> None:
        self.own = own_folder()
        self.users = [*([_folder(config_dir)] if config_dir else []), *_plugins()]
        for group in self.groups():
            for folder in self.users:
                taken = sorted(set(_options(folder, group)) & set(_options(self.own, group)))
                if taken:
                    raise Refused(f"{folder / group / taken[0]}.yaml: {group}={taken[0]} is testbed's own name; rename yours")

    def groups(self) -> list[str]:
        """Names of all groups, nested ones as 'defence/rule'."""
        found = {
            str(path.relative_to(folder))
            for folder in (self.own, *self.users)
            for path in folder.rglob("*")
            if _is_group(path, folder)
        }
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


def _is_group(path: Path, folder: Path) -> bool:
    return path.is_dir() and not path.name.startswith((".", "_")) and any(path.glob("*.yaml")) and path != folder


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
