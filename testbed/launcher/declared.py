"""What a study is begun with and keeps: its trials are compared with each other, so that all else must stay as it was."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.launcher.compose import composed, parsed, plain
from testbed.launcher.search import SearchPath
from testbed.launcher.space import Dimension
from testbed.plan import PLACES
from testbed.words import Refused

if TYPE_CHECKING:
    from testbed.launcher.tuning import Tuning

APART = ("paths", "logger", "hydra")
"""Roots of words, and nodes of a configuration, that change no number."""


def declared(asked: Tuning) -> dict[str, Any]:
    """What a study is begun with, by what people know it as."""
    return {
        "suite": asked.suite.name,
        "suite_hash": asked.suite.hash,
        asked.kind: asked.name,
        "trials": asked.options.trials,
        "seed": asked.options.seed,
        "search": {key: found.text for key, found in asked.dimensions.items()},
        "objective": asked.objective,
        "against": list(asked.against),
        "seeds": list(dict.fromkeys(request.seed for request in asked.requests)),
        "worlds": list(dict.fromkeys(request.world for request in asked.requests)),
        "settings": list(asked.settings),
        "departures": list(asked.departures),
        "split": "validation",
        "runs": _digest([request.key for request in asked.requests]),
        "configuration": dict(asked.configuration),
    }


def stamp(search: SearchPath) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of every file of configuration: while they are the same, what is composed of them is."""
    files = sorted(path for folder in (search.own, *search.users) for path in folder.rglob("*.yaml"))
    return tuple((str(path), state.st_size, state.st_mtime_ns) for path in files for state in [path.stat()])


def configurations(asked: Tuning, search: SearchPath) -> dict[str, str]:
    """Node -> 12 hexadecimal digits over what it says in every run, whatever files that comes from; places of files apart.

    Runs that differ in the seed alone are composed once: the seeds are declared beside this.

    Raises:
        Refused: a word names what is not there, in a run of any attack and method; the nearest name is said.
    """
    found: dict[str, list[Any]] = defaultdict(list)
    alike = {(*request.victim[:3], request.method): request for request in asked.requests}
    for request in alike.values():
        for chosen in _probes(asked.dimensions, search.groups()):
            config = plain(composed("train", asked.words(request, chosen), search).config)
            for name in sorted(set(config) - {*APART, "seed"}):
                found[name].append(_placeless(name, config[name]))
    return {name: _digest(nodes) for name, nodes in found.items()}


def _placeless(name: str, node: Any) -> Any:
    return {key: value for key, value in node.items() if f"{name}.{key}" not in PLACES} if isinstance(node, Mapping) else node


def _probes(dimensions: Mapping[str, Dimension], groups: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Words for trials that give every parameter a value and, taken together, choose every option that a trial may choose."""
    files = [found for key, found in dimensions.items() if parsed(f"{key}=x").key_or_group in groups]
    for place in range(max((len(found.choices) for found in files), default=1)):
        yield tuple(
            found.word(found.choices[place % len(found.choices)] if found in files else found.first)
            for found in dimensions.values()
        )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def contents_of(run: Path) -> str:
    """12 hexadecimal digits over the rows that a finished run worked on."""
    from testbed.record import facts

    return _digest((facts(run) or {}).get("contents", {}))


def require_same_data(study: str, label: str, before: str | None, now: str) -> None:
    """Raises `Refused` where a run that trials before this one had too worked on other rows then."""
    if before not in (None, now):
        raise Refused(
            f"study={study}: the data of {label} changed since its trials were run (contents {before}, now {now}); "
            "say study=NAME to begin another"
        )


def require_same_code(study: str, runs: Sequence[Path]) -> None:
    """Raises `Refused` where trials that are done were run by other code: scores of two kinds are not compared."""
    from testbed.record import changed, facts

    seen: list[Mapping[str, str]] = []
    for run in dict.fromkeys(runs):
        sources = (facts(run) or {}).get("sources", {})
        if sources in seen:
            continue
        seen.append(sources)
        if what := changed(sources):
            raise Refused(f"study={study}: {what} changed since its trials were run; say study=NAME to begin another")
