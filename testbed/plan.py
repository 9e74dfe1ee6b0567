"""The runs that a suite asks for, in the order in which they are best made, and where it is written that they were asked for.

Imports nothing heavy: a finished suite is recognised without PyTorch, Hydra or a composed configuration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from testbed.files import write_whole
from testbed.suite import Part, Suite
from testbed.words import Refused, nearest

CLEAN = "none"
"""The name of the clean arm among attacks."""
SCHEMA = 2
UNSEEN = ("paths.outputs", "logger", "hydra")
"""Beginnings of overrides that a run knows nothing of."""
PLACES = (
    *("paths", "data.root", "data.cache", "data.download", "data.workers", "data.in_memory"),
    *("trainer.accelerator", "trainer.threads"),
)
"""Beginnings of those that say where files lie and what computes: no departure from a suite."""


@dataclass(frozen=True)
class Request:
    """One run that is asked for: a verb with overrides, what it is in the grid, and whether the suite itself asks for it.

    `changed` are settings of the user's that no suite asks for. `trial` is which of the targets of a suite that has several.
    """

    verb: str
    overrides: tuple[str, ...]
    world: str
    attack: str
    rate: float | None
    method: str
    seed: int
    declared: bool = True
    changed: tuple[str, ...] = ()
    trial: int = 0

    @property
    def key(self) -> str:
        """16 hexadecimal digits over what is run, and not where it is written or shown."""
        told = [self.verb, *sorted(word for word in self.overrides if not begins(word, UNSEEN))]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    @property
    def victim(self) -> tuple[str, str, float | None, int, int]:
        """Requests that agree in this share the attacked model."""
        return (self.world, self.attack, self.rate, self.seed, self.trial)

    @property
    def place(self) -> tuple[Any, ...]:
        """Where in the grid it stands: requests that agree in this are one, on other machines or data folders."""
        return (*self.victim, self.method, self.changed)

    @property
    def targeted(self) -> bool:
        """Whether it is one of several trials."""
        return "trial" in map(key_of, self.overrides)

    @property
    def label(self) -> str:
        """For people: 'digits badnets 0.05 fine_tuning s0'; of several trials also which one it is."""
        turn = [f"s{self.seed}", *([f"t{self.trial}"] if self.targeted else [])]
        return labelled(self.world, self.attack, self.rate, self.method, *turn)


@dataclass(frozen=True)
class Choice:
    """What a command line makes of a suite; None leaves an axis as it is. `methods` are further ones, with their overrides."""

    worlds: tuple[str, ...] | None = None
    attacks: tuple[str, ...] | None = None
    rates: tuple[float, ...] | None = None
    names: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    targets: int | None = None
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A suite with a choice: the runs in the order in which they are best made, victims before their dependents."""

    suite: Suite
    choice: Choice
    requests: tuple[Request, ...]

    @property
    def departures(self) -> tuple[str, ...]:
        """In what this is not the suite as it is declared: one phrase each."""
        return departures(self.suite, self.requests)

    @property
    def digest(self) -> str:
        """12 hexadecimal digits that tell this plan from others of the same suite."""
        return hashlib.sha256(json.dumps([request.key for request in self.requests]).encode()).hexdigest()[:12]

    def after(self) -> dict[str, tuple[str, ...]]:
        """By key: the keys of the runs that make what a run shares; within a victim, the first run makes it.

        The first run of a clean arm makes the clean twin of every attack on the same world and seed.
        """
        leaders: dict[tuple[Any, ...], str] = {}
        for request in self.requests:
            leaders.setdefault(request.victim, request.key)
        found = {}
        for request in self.requests:
            twin = leaders.get((request.world, CLEAN, None, request.seed, 0))
            needed = [key for key in (leaders[request.victim], twin) if key is not None and key != request.key]
            found[request.key] = tuple(dict.fromkeys(needed))
        return found

    def shard(self, part: int, parts: int) -> Plan:
        """The runs of one shard of several, numbered from 1: those that share a victim stay together."""
        groups = list(dict.fromkeys(request.victim for request in self.requests))
        mine = set(groups[part - 1 :: parts])
        return Plan(self.suite, self.choice, tuple(request for request in self.requests if request.victim in mine))


def labelled(world: str, attack: str, rate: float | None, *more: str) -> str:
    """A place in a grid, for people: 'digits badnets 0.05 fine_tuning s0'."""
    return " ".join([world, attack, *([] if rate is None else [f"{rate:g}"]), *more])


def last_of(words: Sequence[str]) -> tuple[str, ...]:
    """The words without those that a later one for the same key outdoes; Hydra takes no two for one group."""
    return tuple({key_of(word): word for word in words}.values())


def key_of(word: str) -> str:
    """What an override sets: 'attack.poison_rate' of '+attack.poison_rate=1'."""
    return word.lstrip("+~").partition("=")[0]


def root(word: str) -> str:
    """The first part of what an override sets: 'attack' of '+attack.poison_rate=1'."""
    return key_of(word).partition("@")[0].partition(".")[0].partition("/")[0]


def begins(word: str, beginnings: Sequence[str]) -> bool:
    """Whether an override sets one of these keys, or one below it."""
    key = key_of(word)
    return any(
        key == beginning or key.startswith((f"{beginning}.", f"{beginning}@", f"{beginning}/")) for beginning in beginnings
    )


def planned(suite: Suite, choice: Choice) -> Plan:
    """Every run that a choice of a suite asks for. The baseline is always among them, for differences are taken from it.

    Raises:
        Refused: an axis has no such name.
    """
    worlds = _chosen("data", choice.worlds, suite.worlds)
    attacks = _chosen("attack", choice.attacks, {**suite.attacks, CLEAN: Part(settings=suite.clean)})
    offered = {**suite.methods, **{name: Part(settings=words) for name, words in choice.methods.items()}}
    methods = _chosen(suite.kind, choice.names, offered)
    if suite.baseline is not None:
        methods = {suite.baseline: offered[suite.baseline], **methods}
    attacks = {CLEAN: Part(settings=suite.clean), **attacks}
    key, values = suite.rated
    if choice.rates is not None and not key:
        raise Refused(f"rates={_listed(choice.rates)}: the attacks of this suite keep their own")
    rates = values if choice.rates is None else choice.rates
    seeds = suite.seeds if choice.seeds is None else choice.seeds
    targets = suite.targets if choice.targets is None else choice.targets
    if targets > 1 and suite.targets == 1:
        raise Refused(f"targets={targets}: the attacks of this suite have no trials")
    changed = tuple(word for word in choice.settings if not begins(word, (*UNSEEN, *PLACES)))
    found = []
    for seed, (world, place), (attack, shown) in product(seeds, worlds.items(), attacks.items()):
        trials = range(1 if attack == CLEAN else targets)
        for trial, rate, (method, chosen) in product(trials, (None,) if attack == CLEAN else rates, methods.items()):
            if world not in (shown.worlds or worlds) or world not in (chosen.worlds or worlds):
                continue
            words = (*suite.settings, *place.settings, *shown.settings, *chosen.settings, *choice.settings, f"seed={seed}")
            words = (*words, *([] if rate is None else [f"{key}={rate:g}"]))
            words = last_of((*words, f"trial={trial}") if suite.targets > 1 and attack != CLEAN else words)
            declared = not changed and seed in suite.seeds and method in suite.methods and (rate is None or rate in values)
            declared = declared and trial < suite.targets
            found.append(Request(suite.verb, words, world, attack, rate, method, seed, declared, changed, trial))
    return Plan(suite, choice, tuple(found))


def departures(suite: Suite, requests: Sequence[Request]) -> tuple[str, ...]:
    """In what these runs are not the suite as it is declared: one phrase each."""
    whole = planned(suite, Choice()).requests
    told = list(dict.fromkeys(f"{word} in some runs" for request in requests for word in request.changed))
    for axis in ("world", "attack", "rate", "method", "seed", "trial"):
        there = dict.fromkeys(getattr(request, axis) for request in requests)
        declared = dict.fromkeys(getattr(request, axis) for request in whole)
        left_out = [value for value in declared if value not in there]
        added = [value for value in there if value not in declared]
        told += [f"without {axis} {_listed(left_out)}"] if left_out else []
        told += [f"{axis} {_listed(added)} added"] if added else []
    asked = {request.place for request in requests}
    missing = sum(request.place not in asked for request in whole)
    return (*told, f"{missing} of its {len(whole)} runs not asked for") if missing else tuple(told)


def store(plan: Plan, command: Sequence[str], outputs: Path) -> Path:
    """Write the plan below `outputs/benchmark`, where a report finds it: the file."""
    told = {
        "schema": SCHEMA,
        "suite": plan.suite.model_dump(mode="json"),
        "command": list(command),
        "requests": [asdict(request) for request in plan.requests],
    }
    place = outputs / "benchmark" / f"{plan.suite.name}-{plan.suite.hash}" / f"plan-{plan.digest}.json"
    write_whole(place, json.dumps(told, indent=1) + "\n")
    return place


@dataclass(frozen=True)
class Stored:
    """All plans of one suite below a folder of outputs, taken together."""

    suite: Suite
    departures: tuple[str, ...]
    requests: tuple[Request, ...]


def stored(outputs: Path) -> Iterator[Stored]:
    """The suites that were planned below `outputs`, each with the runs that any of its plans asks for."""
    for folder in sorted((outputs / "benchmark").glob("*-*")):
        paths = sorted(folder.glob("plan-*.json"), key=lambda path: path.stat().st_mtime_ns)
        told = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        told = [plan for plan in told if plan.get("schema") == SCHEMA]  # what is of another version, a rerun writes again
        if told:
            asked: dict[tuple[Any, ...], Request] = {}
            for plan in told:
                for request in plan["requests"]:
                    lists = {name: tuple(request[name]) for name in ("overrides", "changed")}
                    made = Request(**{**request, **lists})
                    asked[made.place] = made  # the newest plan's, where the data lie elsewhere now
            suite, requests = Suite(**told[0]["suite"]), tuple(asked.values())
            yield Stored(suite, departures(suite, requests), requests)


def _chosen(axis: str, names: Sequence[str] | None, offered: Mapping[str, Part]) -> dict[str, Part]:
    for name in names or ():
        if name not in offered:
            raise Refused(f"{axis}={name}: the suite has no such name; {nearest(name, list(offered))}")
    return {name: offered[name] for name in (offered if names is None else dict.fromkeys(names))}


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
