"""The command line: `testbed <verb> key=value ...`. Names are checked before anything heavy is imported."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from testbed import __version__
from testbed.launcher.bounds import staying
from testbed.launcher.interruption import Ending, to_nobody
from testbed.manual import BY_THEMSELVES, STARTS, VERBS, help_on, overview
from testbed.words import Refused, check_words, nearest

if TYPE_CHECKING:
    from testbed.launcher.search import SearchPath

FLAGS = ("--help", "--multirun", "--config-dir", "--cfg", "--debug", "--dry-run", "--version", "--shell-completion")
WITH_VALUE = ("--config-dir", "--cfg", "--shell-completion")
SHORT = {"-h": "--help", "-m": "--multirun", "-cd": "--config-dir", "-c": "--cfg", "-sc": "--shell-completion"}


@dataclass
class Arguments:
    """A command line taken apart: flags of ours, overrides for Hydra."""

    verb: str | None = None
    flags: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Obey a command line, and tell its exit code.

    0 done, 1 some runs failed, 2 bad input, 3 refused for safety, 4 resources, 130 ended by Ctrl-C, 143 by SIGTERM, SIGHUP or
    SIGUSR1.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Threads that wait by spinning make small models ten times slower where others use the machine too.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with Ending(leaving=argv is None) as ending, staying():
        ending.code = _answered(words)
    return ending.code


def _answered(words: list[str]) -> int:
    """The exit code, and a line for what went wrong; an interruption is left to whoever asked."""
    try:
        check_words(words)
        return _obey(words)
    except Refused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return refusal.code
    except BrokenPipeError:  # | head had enough
        to_nobody(sys.stdout.fileno())  # so that the flush at exit does not fail
        return 1
    except (Exception, SystemExit) as error:  # a fault of testbed's own: still one line, and the trace for whoever asks
        if "--debug" in words:
            traceback.print_exc()
        from testbed.launcher.job import explained

        said, code = explained(error)  # 4 where a disk is full
        print(f"error: {said}", file=sys.stderr)
        return code


def _obey(words: list[str]) -> int:
    given = parsed(words)
    if "--shell-completion" in given.flags:
        from testbed.launcher.completion import complete

        return complete(given.flags["--shell-completion"], list(VERBS))
    if "--version" in given.flags:
        print(f"testbed {__version__}")
        return 0
    if given.verb is None:
        if words and "--help" not in given.flags:
            raise Refused(f"{' '.join(words)}: a verb is missing; {nearest('', list(VERBS))}")
        print(overview())
        return 0
    if "--help" in given.flags:
        print(help_on(given.verb))
        return 0
    return _verb(given)


def parsed(words: Sequence[str]) -> Arguments:
    """Flags anywhere, the verb first, everything else an override; `defense` is `defence`.

    Raises:
        Refused: an unknown flag or verb, with the nearest; a flag without its value.
    """
    given = Arguments()
    rest = iter(words)
    for word in rest:
        name, _, value = word.partition("=")
        name = SHORT.get(name, name)
        if word.startswith("-") and not word.startswith("-=") and not word[1:2].isdigit():
            if name not in FLAGS:
                raise Refused(f"{word}: there is no such option; {nearest(name, FLAGS)}")
            given.flags[name] = value or (next(rest, "") if name in WITH_VALUE else "yes")
            if not given.flags[name]:
                raise Refused(f"{word}: a value must follow; see testbed --help")
        elif given.verb is None:
            if word not in VERBS:
                raise Refused(f"{word}: there is no such verb; {nearest(word, list(VERBS))}")
            given.verb = word
        else:
            given.overrides.append(_british(word))
    return given


def _verb(given: Arguments) -> int:
    from testbed.launcher.search import SearchPath

    search = SearchPath(given.flags.get("--config-dir"))
    if given.verb in STARTS and "--multirun" in given.flags:
        raise Refused(f"--multirun: testbed {given.verb} makes the grid itself; leave it out")
    if given.verb in (*STARTS, *BY_THEMSELVES):
        with _importable(os.getcwd()):
            return _starts(given.verb)(given.overrides, given.flags, search)
    if given.verb == "list":
        from testbed.launcher.listing import listing

        return listing(given.overrides, search)
    from testbed.launcher.compose import register

    register(search)
    if given.verb == "check":
        from testbed.launcher.everything import suited

        given.overrides = suited(given.overrides)
    if given.verb == "audit":
        from testbed.launcher.suspicion import examined

        given.overrides = examined(given.overrides, search)
    if "--cfg" in given.flags:
        return _shown(given, search)
    with _importable(os.getcwd()):
        return _run(given, search)


def _starts(verb: str) -> Callable[..., int]:
    return getattr(import_module(f"testbed.launcher.{verb}"), verb)


def _shown(given: Arguments, search: SearchPath) -> int:
    from omegaconf import OmegaConf

    from testbed.launcher.compose import composed

    if given.flags["--cfg"] != "job":
        raise Refused(f"--cfg {given.flags['--cfg']}: only the job's configuration can be shown; say --cfg job")
    print(OmegaConf.to_yaml(composed(str(given.verb), given.overrides, search).config), end="")
    return 0


def _run(given: Arguments, search: SearchPath) -> int:
    from testbed.launcher.compose import check_names, composed, plain

    verb = str(given.verb)
    whole = None if "--multirun" in given.flags else composed(verb, given.overrides, search)
    if whole is None:
        check_names(verb, given.overrides, search)
    config, choices = ({}, {}) if whole is None else (plain(whole.config), whole.choices)
    from testbed.launcher.instantiate import named_by_user
    from testbed.launcher.job import Job, run

    permitted = named_by_user(given.overrides, search.users)
    job = Job(verb, config, choices, ("testbed", verb, *given.overrides), permitted, debug="--debug" in given.flags)
    if verb == "check" and whole is not None and not _names_a_method(given.overrides):
        from testbed.launcher.everything import check_everything

        return check_everything(job, given.overrides, search)
    if whole is not None:
        return run(job)
    from testbed.launcher.sweep import sweep

    return sweep(job, given.overrides, search)


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Modules of this folder can be imported inside: a user's mine.py lies there."""
    before = list(sys.path)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path[:] = before


def _names_a_method(overrides: Sequence[str]) -> bool:
    return any(word.lstrip("+~").startswith(("attack", "trigger", "defence", "detector", "model")) for word in overrides)


def _british(word: str) -> str:
    return word.replace("defense", "defence", 1) if word.lstrip("+~/").startswith("defense") else word


if __name__ == "__main__":
    sys.exit(main())
