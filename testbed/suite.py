"""A suite: a named, hashed list of attacks x rates x methods x worlds x seeds, as a file in `conf/suite` declares it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import pydantic

from testbed import plain_yaml
from testbed.words import Refused

MOST_SEEDS = 10_000


def from_zero(seeds: int) -> tuple[int, ...]:
    """So many seeds from 0 on, and one more than may be where there are more: nobody's memory is filled with their numbers."""
    return tuple(range(min(seeds, MOST_SEEDS + 1)))


class Part(pydantic.BaseModel):
    """What chooses an attack or a method: overrides for the command line, and the worlds that it is meant for (all if None)."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    settings: tuple[str, ...] = ()
    worlds: tuple[str, ...] | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_list(cls, given: Any) -> Any:
        return {"settings": given or ()} if given is None or isinstance(given, list | tuple) else given


class Suite(pydantic.BaseModel):
    """What a file in `conf/suite` says.

    `worlds` choose data and model. The clean arm is every method without an attack, and is not crossed with `rates`.
    `counted` are the attacks that enter ranks (all if None); `dev` are attacks for tuning, never part of the grid;
    `clean_budget` says in words which clean rows a defender has; of `families`, each holds the measures whose paired tests are
    corrected together (Holm), for one method at a time; `trials` is the budget of `testbed tune`, the same for everyone;
    `seconds` and `megabytes` are what a run takes, until some were made. `targets` is how many trials each attack has on every
    seed, each with a target of its own: all attacks of such a suite are targeted, and are judged over trials.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    name: str
    verb: Literal["train", "detect", "degrade"]
    clean_budget: str
    seeds: tuple[int, ...] = pydantic.Field(max_length=MOST_SEEDS)
    worlds: dict[str, Part]
    attacks: dict[str, Part]
    methods: dict[str, Part]
    settings: tuple[str, ...] = ()
    rates: dict[str, tuple[float, ...]] = pydantic.Field(default_factory=dict, max_length=1)
    clean: tuple[str, ...] = ("attack=none",)
    baseline: str | None = "none"
    counted: tuple[str, ...] | None = None
    dev: dict[str, Part] = pydantic.Field(default_factory=dict)
    families: tuple[tuple[str, ...], ...] = ()
    trials: int = pydantic.Field(20, ge=1)
    targets: int = pydantic.Field(1, ge=1, le=MOST_SEEDS)
    seconds: float | None = None
    megabytes: float | None = None

    @pydantic.field_validator("seeds", mode="before")
    @classmethod
    def _counted_from_zero(cls, given: Any) -> Any:
        return from_zero(given) if isinstance(given, int) else given

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Suite:
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError("seeds: at least one, and none below 0")
        if self.targets > 1 and self.verb not in ("train", "detect"):
            raise ValueError(f"targets: only train and detect have trials, and this suite is one of {self.verb}")
        if self.baseline is not None and self.baseline not in self.methods:
            raise ValueError(f"the baseline {self.baseline} is none of its methods")
        if unknown := sorted(set(self.counted or ()) - set(self.attacks)):
            raise ValueError(f"{unknown[0]} is counted, but none of its attacks")
        if clash := sorted(set(self.dev) & set(self.attacks)):
            raise ValueError(f"{clash[0]} is an attack to tune on and one to be measured by")
        for part in (*self.attacks.values(), *self.methods.values(), *self.dev.values()):
            if unknown := sorted(set(part.worlds or ()) - set(self.worlds)):
                raise ValueError(f"{unknown[0]} is none of its worlds")
        return self

    @property
    def hash(self) -> str:
        """12 hexadecimal digits over all that it says, comments and costs apart."""
        without = {"seconds", "megabytes", *(["targets"] if self.targets == 1 else [])}
        told = self.model_dump(mode="json", exclude=without)
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def kind(self) -> str:
        """The group that its methods are of."""
        return "detector" if self.verb == "detect" else "defence"

    @property
    def rated(self) -> tuple[str, tuple[float | None, ...]]:
        """The key of the rate and its values; one None where attacks keep their own."""
        return next(iter(self.rates.items()), ("", (None,)))


def read_suite(path: Path) -> Suite:
    """The suite in a YAML file, named as the file is.

    Raises:
        Refused: it is none; the message names the key and what is wrong with it.
    """
    try:
        told = plain_yaml.read(path) or {}
        return Suite(name=path.stem, **told)
    except (OSError, plain_yaml.Unread, TypeError) as error:
        raise Refused(f"{path}: no suite can be read there ({' '.join(str(error).split())})") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Refused(f"{path.name}: {place or 'suite'}: {first['msg'][0].lower() + first['msg'][1:]}") from error
