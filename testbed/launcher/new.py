"""`testbed new defence mine`: a small package with a method that works, to be edited, in the working directory."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from testbed.launcher.search import SearchPath
from testbed.words import Refused, nearest

TEMPLATES = Path(__file__).parent.parent / "skeleton"
KINDS = {
    "attack": "stamps a bar into some rows and relabels them",
    "defence": "shrinks the weights of a trained model and trains on clean rows",
    "detector": "scores rows by their distance from the clean rows of the same class",
    "judge": "takes short replies that say no for refusals",
    "model": "a network of two convolutions for images",
    "trigger": "brightens the left edge of images",
}
"""What can be made, and what it does until it is edited."""

ELSEWHERE = {"data": "data of your own need no code: say data=arrays, image_folder, text_table or messages"}
RESERVED = ("conf", "tests", "null", "true", "false", "inf", "nan")
"""Names of the package's own folders, and words that mean something else on the command line."""

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
NAMING = "a name is of small letters, digits and '_', begins with a letter and has 40 at most"
EXAMPLE = "testbed new defence mine"
FILES = {
    "$name/pyproject.toml": "pyproject.toml",
    "$name/README.md": "README.md",
    "$name/$name/__init__.py": "__init__.py",
    "$name/$name/method.py": "$kind.py",
    "$name/$name/conf/$kind/$name.yaml": "$kind.yaml",
    "$name/tests/test_$name.py": "test.py",
}
"""What is written, and from which template."""

CHECK = "testbed check $kind=$name --config-dir $name/conf"
RUN = {
    "attack": "testbed train attack=$name --config-dir $name/conf",
    "defence": "testbed train defence=$name --config-dir $name/conf",
    "detector": "testbed detect detector=$name --config-dir $name/conf",
    "judge": "testbed degrade judge=$name --config-dir $name/conf",
    "model": "testbed train model=$name --config-dir $name/conf",
    "trigger": "testbed train trigger@attack.trigger=$name --config-dir $name/conf",
}
NEXT = """
next:
  cd $name
  python -m pytest               (what every $kind promises)
  $check
  $run
  pip install -e .               ($kind=$name is known everywhere from then on, without --config-dir)"""


def new(words: Sequence[str], flags: Mapping[str, str], search: SearchPath) -> int:
    """Write the skeleton of a method and say what is next; without words, say what can be made.

    Raises:
        Refused: a kind that there is none of; a name that cannot be one or is taken; a folder that is there already.
    """
    if not words:
        told = [f"  {kind:<10}{what}" for kind, what in KINDS.items()]
        print("\n".join(["usage: testbed new KIND NAME, such as testbed new defence mine", "", *told]))
        return 0
    kind, name = _asked(words)
    facts = {"kind": kind, "name": name, "Class": _class(name), "Kind": kind.capitalize()}
    _require_free(facts, search)
    _require_outside(search)
    texts = {Path(_filled(path, facts)): _template(_filled(source, facts), facts) for path, source in FILES.items()}
    _written(name, texts)
    run = {"check": _filled(CHECK, facts), "run": _filled(RUN[kind], facts)}
    print("\n".join(map(str, texts)))
    print(_filled(_lines(kind), {**facts, **run}))
    return 0


def _asked(words: Sequence[str]) -> tuple[str, str]:
    kind = words[0]
    if kind in ELSEWHERE:
        raise Refused(f"new {kind}: {ELSEWHERE[kind]}")
    if kind not in KINDS:
        raise Refused(f"new {kind}: there is no such kind of method; {nearest(kind, list(KINDS))}")
    if len(words) == 1:
        raise Refused(f"new {kind}: a name is missing; say testbed new {kind} mine")
    if len(words) > 2:
        raise Refused(f"new {' '.join(words)}: one kind and one name at a time; say {EXAMPLE}")
    return kind, words[1]


def _require_free(facts: Mapping[str, str], search: SearchPath) -> None:
    """Raises `Refused` where the name is none in Python, in YAML or for a folder, or is somebody else's already."""
    kind, name = facts["kind"], facts["name"]
    said = f"new {kind} {name}"
    if not NAME.fullmatch(name):
        raise Refused(f"{said}: {NAMING}; say {EXAMPLE}")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in RESERVED:
        raise Refused(f"{said}: the name means something else; choose another name")
    if name in search.options(kind):
        raise Refused(f"{said}: {kind}={name} is there already; choose another name")
    if Path(name).exists() or Path(name).is_symlink():
        raise Refused(f"{said}: {name} is there already, and nothing is overwritten; choose another name, or remove it")
    if name in sys.stdlib_module_names or find_spec(name) is not None:
        raise Refused(f"{said}: Python has a module of this name already; choose another name")
    if re.search(rf"\b{facts['Class']}\b", _read(f"{kind}.py")):
        raise Refused(f"{said}: its class would be {facts['Class']}, which testbed has already; choose another name")


def _require_outside(search: SearchPath) -> None:
    """Raises `Refused` where the working directory lies in testbed's own checkout."""
    checkout = search.own.parent.resolve()
    if (checkout / "pyproject.toml").is_file() and Path.cwd().is_relative_to(checkout):
        raise Refused("new: this folder is testbed's own, and a method of yours needs none of it; say cd to a folder of yours")


def _written(name: str, texts: Mapping[Path, str]) -> None:
    """The files, all or none. Raises `Refused` where they cannot be written here."""
    try:
        with TemporaryDirectory(dir=".", prefix=".new-") as place:
            for path, text in texts.items():
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).write_text(text, encoding="utf-8")
            Path(place, name).rename(name)
    except OSError as error:
        raise Refused(f"new: cannot write into {Path.cwd()} ({error.strerror})", 4) from error


def _lines(kind: str) -> str:
    """What is next; there is nothing to check of a judge."""
    return "\n".join(line for line in NEXT.splitlines() if kind != "judge" or "$check" not in line)


def _class(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _template(source: str, facts: Mapping[str, str]) -> str:
    if source == "test.py" and facts["kind"] == "judge":
        source = "test_judge.py"
    return _filled(_read(source), facts)


def _filled(text: str, facts: Mapping[str, str]) -> str:
    return Template(text).substitute(facts)


def _read(source: str) -> str:
    return (TEMPLATES / f"{source}.template").read_text(encoding="utf-8")
