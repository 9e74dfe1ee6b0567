"""`testbed export run=FOLDER`: the data of a run are read as its configuration names them, which is data and no code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.launcher.search import SearchPath
from testbed.plain_yaml import Unread, read
from testbed.words import Refused, nearest

VERBS = ("train", "detect", "degrade")


def export(words: Sequence[str], flags: Mapping[str, str], search: SearchPath) -> int:
    """Compose this command, take the data from the run's configuration, and export.

    Words `data.NAME=VALUE` say what has changed since: where files lie, mostly.

    Raises:
        Refused: no run there, or a configuration that names anything but one of the data sets that there are.
    """
    import yaml
    from omegaconf import OmegaConf

    from testbed.launcher.compose import composed, parsed, plain, register, values
    from testbed.launcher.instantiate import named_by_user
    from testbed.launcher.job import Job, run

    if "--multirun" in flags:
        raise Refused("--multirun: testbed export writes one set at a time; leave it out")
    about_data = [word for word in words if word.startswith("data.")]
    register(search)
    whole = composed("export", [word for word in words if word not in about_data], search)
    if flags.get("--cfg", "job") != "job":
        raise Refused(f"--cfg {flags['--cfg']}: only the job's configuration can be shown; say --cfg job")
    if "--cfg" in flags and OmegaConf.is_missing(whole.config, "run"):
        print(OmegaConf.to_yaml(whole.config), end="")
        return 0
    config = plain(whole.config)
    folder, permitted = Path(str(config["run"])), named_by_user(words, search.users)
    there = configuration(folder)
    data = there["data"]
    for override in map(parsed, about_data):
        name = override.key_or_group.removeprefix("data.")
        if name not in data:
            raise Refused(f"{override.input_line}: the run's data take no such value; {nearest(name, sorted(map(str, data)))}")
        (data[name],) = values(override)
    _require_data_set(data, folder, {*_targets(search), *permitted})
    data |= {"download": False} if "download" in data and "data.download=true" not in words else {}
    data |= {"cache": str(Path(config["paths"]["outputs"]) / "cache")} if "cache" in data else {}
    if "--cfg" in flags:
        print(yaml.safe_dump({**config, "data": data}, sort_keys=False, allow_unicode=True), end="")
        return 0
    names = {"data": _chosen(folder)}
    job = Job("export", {**config, "data": data}, names, ("testbed", "export", *words), permitted, debug="--debug" in flags)
    return run(job)


def configuration(folder: Path) -> dict[str, Any]:
    """The configuration of a run as plain data.

    Raises:
        Refused: there is none that can be read, or none of a run with data.
    """
    try:
        found = read(folder / "config.yaml")
    except (OSError, Unread) as error:
        why = " ".join(str(error).split())[:200]
        raise Refused(f"run={folder}: there is no configuration that can be read ({why}); name the folder of a run") from error
    if not isinstance(found, dict) or not isinstance(found.get("data"), dict) or folder.resolve().parent.name not in VERBS:
        raise Refused(f"run={folder}: this is no run of {', '.join(VERBS)}; name the folder of one")
    return found


def _require_data_set(data: Mapping[str, Any], folder: Path, known: set[str]) -> None:
    """Raises `Refused` for a configuration that names anything else to be called than a data set that there is."""
    target = data.get("_target_")
    if target not in known:
        limit = "is no data set of testbed's"
        advice = "say data._target_= yourself if you trust it"
        raise Refused(f"run={folder}: its data._target_={target} {limit}; {advice}", 3)
    if _calls({name: value for name, value in data.items() if name != "_target_"}):
        raise Refused(f"run={folder}: its data name something to be called among their values; nothing of it was read", 3)


def _calls(node: Any) -> bool:
    if isinstance(node, list):
        return any(map(_calls, node))
    return isinstance(node, dict) and ("_target_" in node or any(map(_calls, node.values())))


def _targets(search: SearchPath) -> set[str]:
    """What testbed's own data sets, and those of plug-ins and of the user's folders, are read by."""
    return {str((read(path) or {}).get("_target_")) for path in search.options("data").values()}


def _chosen(folder: Path) -> str:
    """The name by which the data were chosen; it finds the card with their licence."""
    from testbed.record import facts

    known = facts(folder) or {}
    return str((known.get("names") or {}).get("data") or "")
