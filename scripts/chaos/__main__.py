"""Break the testbed on purpose, and show what it survives. Each program prints its figures and the promises that it checked.

    python scripts/chaos kills                          200 kill -9 over a sweep of 200 runs with two drivers
    python scripts/chaos kills --count 3000 --runs 600  the same for a night
    python scripts/chaos kills --seed 7                 other random moments

Exit code 0: every promise was kept; 1: one was not. What is promised stands in docs/reliability.md.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent))

from verdict import Found

PROGRAMS = ("kills", "trainings", "faulty", "writes", "full", "again", "soak", "drivers")
"""Each is a module here with a function of its name: (place, *, numbers) -> Found."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="chaos")
    programs = parser.add_subparsers(dest="program", required=True)
    broken = {name: _program(name) for name in PROGRAMS}
    for name, program in broken.items():
        told = programs.add_parser(name, help=(program.__doc__ or "").splitlines()[0])
        told.add_argument("--keep", type=Path, help="an empty folder for all that is made, kept afterwards")
        for key, parameter in _numbers(program).items():
            kind = type(parameter.default)
            told.add_argument(f"--{key}", type=kind, default=parameter.default, help=f"{parameter.default} unless given")
    given = vars(parser.parse_args(argv))
    name, keep = given.pop("program"), given.pop("keep")
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        return broken[name](keep.resolve(), **given).show(name, given)
    with TemporaryDirectory(prefix="chaos-") as place:
        return broken[name](Path(place).resolve(), **given).show(name, given)


def _program(name: str) -> Callable[..., Found]:
    return getattr(import_module(name), name)


def _numbers(program: Callable[..., Found]) -> dict[str, inspect.Parameter]:
    """What of a program can be set: its keyword parameters, with their defaults."""
    return {name: found for name, found in inspect.signature(program).parameters.items() if found.kind is found.KEYWORD_ONLY}


if __name__ == "__main__":
    sys.exit(main())
