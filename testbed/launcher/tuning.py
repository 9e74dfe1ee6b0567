"""A command line of `testbed tune`, read: what is tuned, over which space, against what, and with which budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pydantic
import yaml
from hydra.core.override_parser.types import Override

from testbed.launcher.compose import parsed
from testbed.launcher.declared import APART, configurations, stamp
from testbed.launcher.grid import Axes, outputs_of, validated
from testbed.launcher.search import SearchPath
from testbed.launcher.space import ROOTS, Dimension, space, space_file
from testbed.plan import CLEAN, Choice, Plan, Request, last_of, planned, root
from testbed.suite import Part, Suite, read_suite
from testbed.words import NAME, NAMING, Refused, nearest

LOSS = 0.02
"""Clean accuracy that an attack may cost where nothing else is declared."""


class Options(Axes):
    """What `conf/tune.yaml` says beside the configuration of a run, as values."""

    tune: str | None = None
    trials: int | None = pydantic.Field(None, ge=1, le=100_000)
    seed: int = pydantic.Field(ge=0)
    loss: float | None = pydantic.Field(None, ge=0, lt=1)
    study: str | None = None

    @pydantic.field_validator("attack", "data", "defence", "rates", "seeds", mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        if isinstance(given, str) and not given.strip("[], "):
            raise ValueError("there is nothing in it")
        return given

    @pydantic.model_validator(mode="after")
    def _possible(self) -> Self:
        if self.study is not None and not NAME.fullmatch(self.study):
            raise ValueError(f"study={self.study}: {NAMING}")
        return self


@dataclass(frozen=True)
class Tuning:
    """What is tuned (`kind` and `name`), and the runs that a trial is made of, to which a trial adds its own words.

    `settings` are the user's words for every run; `more` are those of them that change no number. `configuration` is what all
    comes to, as `configurations` tells it, of files as `files` tells them.
    """

    suite: Suite
    kind: str
    name: str
    options: Options
    dimensions: Mapping[str, Dimension]
    requests: tuple[Request, ...]
    settings: tuple[str, ...]
    more: tuple[str, ...]
    departures: tuple[str, ...]
    outputs: Path
    files: tuple[tuple[str, int, int], ...] = ()
    configuration: Mapping[str, str] = field(default_factory=dict)

    @property
    def study(self) -> str:
        """The name of the study."""
        return self.options.study or f"{self.suite.name}-{self.name}-s{self.options.seed}"

    @property
    def folder(self) -> Path:
        """Where the study lies; its runs lie in `outputs/tune`."""
        return self.outputs / "study" / self.study

    @property
    def loss(self) -> float | None:
        """The declared limit on what clean accuracy may lose; None where there is none."""
        return LOSS if self.kind == "attack" and self.options.loss is None else self.options.loss

    @property
    def objective(self) -> str:
        """What is searched for, in words."""
        if self.kind == "attack":
            return f"most attack success under the best defence against it; clean accuracy lost <= {self.loss:g}"
        if self.loss is None:
            return "most defence effectiveness (DER), the mean over runs"
        return f"least attack success, the mean over runs; clean accuracy lost <= {self.loss:g}"

    @property
    def direction(self) -> str:
        """As Optuna says it."""
        return "minimize" if self.kind == "defence" and self.loss is not None else "maximize"

    @property
    def against(self) -> tuple[str, ...]:
        """The dev attacks that a defence is tuned on, or the defences that an attack is tuned against."""
        return tuple(dict.fromkeys(request.attack if self.kind == "defence" else request.method for request in self.requests))

    @property
    def fixed(self) -> tuple[str, ...]:
        """What chooses the method that is tuned, as the suite says it, and what the user fixed of it."""
        parts = self.suite.methods if self.kind == "defence" else {**self.suite.attacks, **self.suite.dev}
        own = parts[self.name].settings if self.name in parts else (f"{self.kind}={self.name}",)
        return last_of([*own, *(word for word in self.settings if root(word) in ROOTS[self.kind])])

    def words(self, request: Request, chosen: Sequence[str]) -> list[str]:
        """The words of one run of a trial."""
        return list(last_of([*request.overrides, *self.more, "logger=none", *chosen]))


def tuning(words: Sequence[str], search: SearchPath) -> Tuning:
    """What these words ask for.

    Raises:
        Refused: a name, a value or a range that cannot be; nothing was run.
    """
    told, rest = _divided(words, search)
    options = validated(Options, told)
    search.require("suite", options.suite)
    suite = read_suite(search.options("suite")[options.suite])
    departs = [] if options.trials in (None, suite.trials) else [f"{options.trials} trials instead of {suite.trials}"]
    options = options.model_copy(update={"trials": options.trials or suite.trials})
    if suite.verb != "train":
        raise Refused(f"suite={suite.name}: its verb is {suite.verb}; defences and attacks are tuned on suites of verb train")
    kind, name = _tuned(options, rest)
    narrowed = _narrowed(suite, kind, name, options, search)
    path = space_file(options.tune, name, search.options("tune"))
    dimensions = space(rest, kind, path)
    plain = [str(override.input_line) for override in rest if not override.is_sweep_override()]
    settings = tuple(word for word in plain if root(word) not in APART)
    more = tuple(word for word in plain if root(word) in APART and root(word) != "logger")
    outputs = Path(outputs_of(more, search))
    plan = _planned(narrowed, options, settings, dimensions)
    requests = tuple(request for request in plan.requests if request.attack != CLEAN)
    if not requests:
        raise Refused("there is nothing to run: what is tuned and what it is tuned on are meant for no world in common")
    departures = (*departs, *_departures(narrowed, options, settings))
    return composed_now(Tuning(suite, kind, name, options, dimensions, requests, settings, more, departures, outputs), search)


def composed_now(asked: Tuning, search: SearchPath) -> Tuning:
    """The same, with the files of configuration as they are now.

    Raises:
        Refused: a word names what is not there.
    """
    return replace(asked, files=stamp(search), configuration=configurations(asked, search))


def _divided(words: Sequence[str], search: SearchPath) -> tuple[dict[str, Any], list[Override]]:
    """Settings of the search, its own defaults beneath them, and what is meant for the runs."""
    told = yaml.safe_load((search.own / "tune.yaml").read_text(encoding="utf-8"))
    told = {name: value for name, value in told.items() if value is not None and name in Options.model_fields}
    known = {group.partition("/")[0] for group in search.groups()} - set(Options.model_fields) | {"defence", "attack", "data"}
    rest = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and not word.startswith("~"):
            raise Refused(f"{word}: this is not key=value; see testbed tune --help")
        if name in Options.model_fields:
            told[name] = None if value == "null" else value
        elif root(word) not in (*known, *APART):
            raise Refused(f"{word}: there is no such key; {nearest(root(word), [*Options.model_fields, *sorted(known)])}")
        else:
            rest.append(parsed(word))
    return told, rest


def _tuned(options: Options, rest: Sequence[Override]) -> tuple[str, str]:
    """The kind and the name of what is tuned."""
    asked = {kind: names for kind in ("defence", "attack") if (names := getattr(options, kind)) is not None}
    if not asked:
        raise Refused("there is nothing to tune; say defence=NAME or attack=NAME")
    roots = {root(str(override.input_line)) for override in rest if override.is_sweep_override()}
    swept = [kind for kind in asked if roots & set(ROOTS[kind])] if len(asked) > 1 else list(asked)
    if len(swept) != 1:
        raise Refused(f"{' and '.join(asked)} are given; the one with a range is tuned: say 'defence.KEY=interval(LOW,HIGH)'")
    kind, names = swept[0], asked[swept[0]]
    if len(names) != 1:
        raise Refused(f"{kind}={','.join(names)}: one is tuned at a time, each in a study of its own")
    return kind, names[0]


def _narrowed(suite: Suite, kind: str, name: str, options: Options, search: SearchPath) -> Suite:
    """The suite as a search may see it: a defence meets the dev attacks alone, an attack the suite's methods."""
    own = {**suite.attacks, **suite.dev} if kind == "attack" else suite.methods
    known = list(dict.fromkeys((*own, *search.options(kind))))
    if name not in known:
        raise Refused(f"{kind}={name}: there is no such {kind}; {nearest(name, known)}")
    part = {name: own.get(name, Part(settings=(f"{kind}={name}",)))}
    if kind == "attack":
        return suite.model_copy(update={"attacks": part, "dev": {}, "counted": None, "baseline": None})
    if not suite.dev:
        raise Refused(
            f"suite={suite.name}: it declares no dev attacks, and a defence is tuned on no others; add dev: to its file"
        )
    for attack in options.attack or ():
        if attack not in suite.dev:
            raise Refused(
                f"attack={attack}: a defence is tuned on the suite's dev attacks alone; {nearest(attack, list(suite.dev))}"
            )
    return suite.model_copy(update={"attacks": suite.dev, "dev": {}, "counted": None, "methods": part, "baseline": None})


def _planned(suite: Suite, options: Options, settings: Sequence[str], dimensions: Mapping[str, Dimension]) -> Plan:
    """The runs of a trial, and of the clean arm. A rate that is searched or set is not the suite's."""
    key, _ = suite.rated
    if key and key in {*dimensions, *(word.partition("=")[0] for word in settings)}:
        suite = suite.model_copy(update={"rates": {}})
    attacks = tuple(suite.attacks) if options.attack is None else options.attack
    methods = tuple(suite.methods) if len(suite.methods) == 1 else options.defence
    choice = Choice(options.data, attacks, options.rates, methods, options.seeds, settings=tuple(settings))
    return planned(suite, choice)


def _departures(suite: Suite, options: Options, settings: Sequence[str]) -> Iterator[str]:
    """In what the runs of a trial are not those that the suite declares: one phrase each."""
    yield from (f"{word} in every run" for word in settings)
    for axis, asked, whole in (
        ("worlds", options.data, tuple(suite.worlds)),
        ("attacks", options.attack, tuple(suite.attacks)),
        ("defences", options.defence, tuple(suite.methods)),
        ("rates", options.rates, suite.rated[1]),
        ("seeds", options.seeds, suite.seeds),
    ):
        if asked is not None and set(asked) != set(whole):
            told = (", ".join(map(str, values)) for values in (asked, whole))
            yield f"{axis} {' instead of '.join(told)}"
