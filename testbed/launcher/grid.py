"""A command line for a suite, read: which suite, what is chosen of it, and how it is to be run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar

import pydantic
import yaml

from testbed.launcher.cluster import Cluster
from testbed.launcher.search import SearchPath
from testbed.plan import UNSEEN, Choice, Plan, begins, key_of, planned
from testbed.suite import MOST_SEEDS, Suite, read_suite
from testbed.words import Refused, nearest

Told = TypeVar("Told", bound=pydantic.BaseModel)


UNLIMITED = 1_000_000
"""Jobs at a time, where only the cluster itself sets a limit."""


class Axes(pydantic.BaseModel):
    """A suite, and what is chosen of it: `a,b` is a list, and of seeds `5` means 0 to 4."""

    model_config = pydantic.ConfigDict(extra="forbid")
    suite: str
    attack: tuple[str, ...] | None = None
    data: tuple[str, ...] | None = None
    defence: tuple[str, ...] | None = None
    rates: tuple[float, ...] | None = None
    seeds: tuple[int, ...] | None = None

    @pydantic.field_validator("attack", "data", "defence", "detector", "rates", "seeds", mode="before", check_fields=False)
    @classmethod
    def _listed(cls, given: Any, info: pydantic.ValidationInfo) -> Any:
        if not isinstance(given, str):
            return given
        values = tuple(part.strip() for part in given.strip().removeprefix("[").removesuffix("]").split(",") if part.strip())
        number = info.field_name == "seeds" and len(values) == 1 and not given.startswith("[") and values[0].isdecimal()
        if number and int(values[0][:20]) > MOST_SEEDS:
            raise ValueError(f"at most {MOST_SEEDS} seeds")
        return tuple(range(int(values[0]))) if number else values

    @pydantic.model_validator(mode="after")
    def _some_seeds(self) -> Self:
        if self.seeds is not None and (not self.seeds or min(self.seeds) < 0):
            raise ValueError("seeds: at least one, and none below 0")
        return self


class Options(Axes):
    """What `conf/benchmark.yaml` says, as values."""

    detector: tuple[str, ...] | None = None
    targets: int | None = pydantic.Field(None, ge=1, le=MOST_SEEDS)
    shard: str = pydantic.Field("1/1", pattern=r"^[1-9][0-9]{0,5}/[1-9][0-9]{0,5}$")
    launcher: Literal["processes", "basic", "submitit_slurm"] = "processes"
    cluster: Cluster = pydantic.Field(default_factory=Cluster)
    jobs: int | None = pydantic.Field(None, ge=1)
    threads: int = pydantic.Field(1, ge=1)
    timeout: float | None = pydantic.Field(None, gt=0)
    logger: Literal["wandb", "none"] = "wandb"

    @pydantic.model_validator(mode="after")
    def _possible(self) -> Self:
        part, parts = self.parts
        if part > parts:
            raise ValueError(f"shard={self.shard}: the first number is at most the second")
        if self.cluster.cpus is not None and self.cluster.cpus < self.threads:
            raise ValueError(f"cluster.cpus={self.cluster.cpus}: fewer than threads={self.threads} of one run; ask for more")
        return self

    @property
    def on_cluster(self) -> bool:
        """Whether runs are made elsewhere, so that this machine sets no limit to how many at a time."""
        return self.launcher == "submitit_slurm"

    @property
    def parts(self) -> tuple[int, int]:
        """Which shard, of how many."""
        part, parts = self.shard.split("/")
        return int(part), int(parts)


class Grid(NamedTuple):
    """A command line of `benchmark`: the whole plan, this shard of it, and how it is run.

    `logging` goes to the logger that shows the runs at the end.
    """

    whole: Plan
    plan: Plan
    options: Options
    outputs: Path
    logging: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """What the runs of a suite are called together, in W&B and below `outputs/benchmark`."""
        return f"{self.whole.suite.name}-{self.whole.suite.hash}"


def grid(words: Sequence[str], search: SearchPath) -> Grid:
    """What these words ask for.

    Raises:
        Refused: a name or a value that cannot be; nothing was run.
    """
    told, rest = _divided(words, search)
    options = validated(Options, told)
    search.require("suite", options.suite)
    suite = read_suite(search.options("suite")[options.suite])
    unseen = tuple(word for word in rest if begins(word, UNSEEN))
    whole = planned(suite, _choice(suite, options, [word for word in rest if word not in unseen], search))
    if not whole.requests:
        raise Refused("there is nothing to run: none of the methods chosen is meant for a world chosen")
    place = Path(outputs_of(rest, search)).absolute()
    logging = tuple(word for word in unseen if begins(word, ["logger"]))
    return Grid(whole, whole.shard(*options.parts), options, place, logging)


def default_jobs(options: Options) -> int:
    """Runs at a time: as many as are asked for.

    Or else one where there is a GPU for them to share, or one for each processor that this process may use; a cluster is asked
    for all at once.
    """
    if options.jobs or options.on_cluster:
        return options.jobs or UNLIMITED
    if Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1"):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _divided(words: Sequence[str], search: SearchPath) -> tuple[dict[str, Any], list[str]]:
    """Settings of the benchmark, its own defaults beneath them, and what is meant for the runs."""
    told = yaml.safe_load((search.own / "benchmark.yaml").read_text(encoding="utf-8"))
    told = {name: value for name, value in told.items() if value not in (None, "???")}
    rest = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise Refused(f"{word}: this is not key=value; see testbed benchmark --help")
        if name.startswith("cluster."):
            _set(told, name, None if value == "null" else value)
        elif name in Options.model_fields:
            told[name] = None if value == "null" else value
        else:
            rest.append(word)
    if told["launcher"] != "submitit_slurm" and (idle := [word for word in words if word.startswith("cluster.")]):
        raise Refused(f"{idle[0]}: launcher={told['launcher']} asks no cluster for anything; say launcher=submitit_slurm")
    return told, rest


def _set(told: dict[str, Any], name: str, value: str | None) -> None:
    """What a dotted name says, where nested settings have it; null takes back what was said before."""
    *path, last = name.split(".")
    for part in path:
        told[part] = dict(told.get(part) or {}) if isinstance(told.get(part) or {}, dict) else {}
        told = told[part]
    told.pop(last, None)
    if value is not None:
        told[last] = value


def validated(model: type[Told], told: Mapping[str, Any]) -> Told:
    """The words of a command as the values that a model has of them.

    Raises:
        Refused: one is missing, or cannot be.
    """
    try:
        return model(**told)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place, value = _place(told, first["loc"])
        if first["type"] == "missing":
            raise Refused(f"{place}: must be given; say {place}=NAME (testbed list {place})") from error
        if first["type"] == "extra_forbidden":
            *above, last = place.split(".")
            raise Refused(f"{place}: there is no such key; {nearest(last, _keys(model, above))}") from error
        said = first["msg"].removeprefix("Value error, ")
        shown = f"{place}: " if isinstance(value, Mapping) else f"{place}={value}: " if place else ""
        raise Refused(f"{shown}{said[0].lower() + said[1:]}") from error


def _keys(model: type[pydantic.BaseModel], path: Sequence[str]) -> list[str]:
    """The settings that a model has below this path."""
    fields = model.model_fields
    for part in path:
        fields = getattr(fields[part].annotation, "model_fields", {})
    return list(fields)


def _place(told: Mapping[str, Any], where: Sequence[int | str]) -> tuple[str, Any]:
    """The key that an error is about, as it is said on the command line, and the value that it has."""
    value: Any = told
    names: list[str] = []
    for part in where:
        if not isinstance(value, Mapping):
            break
        value = value.get(str(part))
        names.append(str(part))
    return ".".join(names), value


def _choice(suite: Suite, options: Options, rest: Sequence[str], search: SearchPath) -> Choice:
    other = "defence" if suite.kind == "detector" else "detector"
    if getattr(options, other) is not None:
        raise Refused(f"{other}: this suite compares methods of the group {suite.kind}; say {suite.kind}=NAME")
    asked: tuple[str, ...] | None = getattr(options, suite.kind)
    target = f"{suite.kind}._target_="
    classes = {word.rpartition(".")[2].rpartition("=")[2]: (word,) for word in rest if word.startswith(target)}
    for name in asked or ():
        if name not in suite.methods:
            _require(search, suite, name)
    further = {name: (f"{suite.kind}={name}",) for name in asked or () if name not in suite.methods} | classes
    names = None if asked is None and not classes else (*(asked or ()), *classes)
    settings = tuple(word for word in rest if not word.startswith(target))
    for axis, key in (("seeds", "seed"), ("rates", suite.rated[0]), ("targets", "trial" if suite.targets > 1 else "")):
        if key in map(key_of, settings):
            raise Refused(f"{key}: the suite gives it to every run; say {axis}= to choose others")
    return Choice(options.data, options.attack, options.rates, names, options.seeds, options.targets, further, settings)


def _require(search: SearchPath, suite: Suite, name: str) -> None:
    known = [*suite.methods, *(option for option in search.options(suite.kind) if option not in suite.methods)]
    if name not in known:
        raise Refused(f"{suite.kind}={name}: there is no such {suite.kind}; {nearest(name, known)}")


def outputs_of(words: Sequence[str], search: SearchPath) -> str:
    """Where these words say that results go, by Hydra's grammar, or else where they go by default.

    Raises:
        Refused: it is no plain text.
    """
    given = [word for word in words if key_of(word) == "paths.outputs"]
    if not given:
        return str(yaml.safe_load((search.own / "base.yaml").read_text(encoding="utf-8"))["paths"]["outputs"])
    value = given[-1].partition("=")[2]
    if "${" in value or not value:
        raise Refused(f"{given[-1]}: give the folder itself")
    if set(value) & set(",'\"\\(){}[]"):
        from testbed.launcher.compose import parsed, values

        found = values(parsed(given[-1]))
        if len(found) != 1 or not isinstance(found[0], str):
            raise Refused(f"{given[-1]}: give one folder, in quotes where its name has signs of the grammar in it")
        value = found[0]
    return value
