"""Interrupt real commands at random moments, and tell how they ended: exit codes, seconds, what was left running, what resumed.

    python scripts/signals.py                       # 50 moments each of benchmark, train and a sweep; about 25 minutes
    python scripts/signals.py --moments 5 --verbs train --seed 1

Each command is started again on the same outputs until it ends by itself, interrupted at a moment drawn uniformly from the
seconds that it takes undisturbed, counted from when it hears signals. Its results are then compared, byte by byte, with those
of a command that nobody interrupted. Half of the signals go to the command alone (as from `kill`), half to every process of it
(as from a terminal or a scheduler); SIGKILL goes to the command alone, and its workers must end by themselves.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

SUITE = """# Six runs of a second or two.
verb: train
clean_budget: 14 rows a class
seeds: 1
settings: [trainer.max_epochs=2, model.network.width=4]
worlds: {digits: [data=digits]}
attacks: {badnets: [attack=badnets]}
methods: {none: [defence=none], repair: [defence=fine_tuning], prune: [defence=fine_pruning]}
"""
COMMANDS = {
    "benchmark": ("benchmark", "suite=tiny", "--config-dir", "conf", "jobs=2"),
    "train": ("train", "attack=badnets", "defence=fine_tuning", "trainer.max_epochs=12"),
    "sweep": ("train", "-m", "attack=badnets", "seed=0,1,2", "trainer.max_epochs=6"),
}
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores Ctrl-C, and this may be one
from testbed.cli import main
sys.exit(main())
"""
KINDS = ("SIGINT", "SIGINT twice", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGKILL")
ORDERLY, AT_ONCE = 10.0, 1.0
"""Seconds that may pass until the end, after one signal and after a second Ctrl-C."""
ALIVE, ORPHANED = 2.0, 15.0
"""Seconds that may pass until nothing of the command is left, after an end of its own and after it was killed."""
CODES = {"SIGINT": 130, "SIGKILL": -9}
"""143 for all others."""


@dataclass
class Kind:
    """What became of the commands that met one kind of interruption."""

    times: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Command:
    """A command in a working directory of its own, in a session of its own, so that all of it can be found."""

    def __init__(self, words: Sequence[str], place: Path) -> None:
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("TESTBED", "SLURM", "WANDB"))}
        self.said = (place / "said.txt").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words, "logger=none"],
            cwd=place,
            env={**variables, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self.said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing of it is left running, whatever became of it."""
        self.process.kill()
        self.process.wait()
        for process in self.alive():
            os.kill(process, signal.SIGKILL)
        self.said.close()

    def wait_until_it_hears(self) -> None:
        """Until its own handler of SIGUSR1 is there, which is the last; before that, it ends as any program does."""
        while self.process.poll() is None:
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
            caught = int(status.partition("SigCgt:")[2].split()[0], 16)
            if caught & 1 << signal.SIGUSR1 - 1:
                return
            time.sleep(0.002)

    def send(self, number: signal.Signals, *, to_all: bool) -> None:
        """Send it, if there is somebody left to be told."""
        if self.process.poll() is None:
            (os.killpg if to_all else os.kill)(self.process.pid, number)

    def alive(self) -> list[int]:
        """The processes of its session that have not ended."""
        return [process for process, session, state in _processes() if session == self.process.pid and state not in "ZX"]

    def text(self) -> str:
        """What it said."""
        self.said.seek(0)
        return self.said.read()


def _processes() -> Iterator[tuple[int, int, str]]:
    """Every process, its session and its state."""
    for entry in os.listdir("/proc"):
        try:
            told = Path("/proc", entry, "stat").read_text(encoding="utf-8") if entry.isdecimal() else ""
        except OSError:  # it has ended meanwhile
            continue
        if told:
            state, _, _, session = told.rpartition(")")[2].split()[:4]
            yield int(entry), int(session), state


def interrupted(command: Command, kind: str, after: float, dice: random.Random, found: Kind) -> bool:
    """Interrupt a command that was just started after so many seconds: whether it ended by itself."""
    command.wait_until_it_hears()
    try:
        if command.process.wait(after) != 0:
            found.wrong.append(f"undisturbed, it ended with exit code {command.process.returncode}\n{command.text()}")
        return True
    except subprocess.TimeoutExpired:
        pass
    name = kind.partition(" ")[0]
    number, to_all = signal.Signals[name], dice.random() < 0.5 and name != "SIGKILL"
    command.send(number, to_all=to_all)
    if kind.endswith("twice"):
        time.sleep(dice.uniform(0.15, 0.6))
        command.send(number, to_all=to_all)
    told = time.monotonic()
    try:
        command.process.wait(60)
    except subprocess.TimeoutExpired:
        found.wrong.append(f"{kind} after {after:.2f} s: still there 60 s later")
    seconds, limit = time.monotonic() - told, AT_ONCE if kind.endswith("twice") else ORDERLY
    while command.alive() and time.monotonic() < told + seconds + 2 * ORPHANED:
        time.sleep(0.01)
    left = time.monotonic() - told - seconds
    code = command.process.poll()
    found.times += 1
    found.codes[str(code)] = found.codes.get(str(code), 0) + 1
    found.seconds.append(seconds)
    found.left.append(left)
    whom = "all" if to_all else "one"
    said = command.text()
    expected, killed = CODES.get(name, 143), name == "SIGKILL"
    how = f"{kind} to {whom} after {after:.2f} s"
    print(f"{how}: {code} in {seconds:.2f} s, gone {left:.2f} s later", file=sys.stderr, flush=True)
    faults = {
        f"exit code {code} instead of {expected}": code not in (expected, 0),
        f"{seconds:.2f} s until its end": seconds > limit,
        f"{left:.2f} s until nothing was left of it": left > (ORPHANED if killed else ALIVE),
        "no word on how to resume": code == expected > 0 and "run the same command again to resume" not in said,
        "a trace": "Traceback" in said,
    }
    found.wrong += [f"{how}: {fault}\n{said}" for fault, is_so in faults.items() if is_so]
    return code == 0


def results(place: Path) -> dict[str, bytes]:
    """Each run folder with the bytes of its result."""
    return {path.parent.name: path.read_bytes() for path in place.glob("outputs/train/*/result.json")}


def half_made(place: Path) -> list[str]:
    """Temporary files and folders that are still there."""
    hidden = (path for path in (place / "outputs").rglob(".*") if ".locks" not in path.parts)
    return [str(path.relative_to(place)) for path in hidden]


def new_place(root: Path, name: str) -> Path:
    """An empty working directory with the suite."""
    place = root / name
    (place / "conf" / "suite").mkdir(parents=True)
    (place / "conf" / "suite" / "tiny.yaml").write_text(SUITE, encoding="utf-8")
    return place


def whole(words: Sequence[str], place: Path) -> float:
    """Run a command to its end: the seconds that it took from when it heard signals.

    Raises:
        RuntimeError: it did not end well.
    """
    with Command(words, place) as command:
        command.wait_until_it_hears()
        started = time.monotonic()
        if command.process.wait() != 0:
            raise RuntimeError(command.text())
        return time.monotonic() - started


def tried(verb: str, moments: int, dice: random.Random, root: Path, kinds: Sequence[str] = KINDS) -> dict[str, Kind]:
    """Interrupt one kind of command at so many moments; what resumed otherwise than it should is in `wrong`."""
    words, found = COMMANDS[verb], {kind: Kind() for kind in kinds}
    reference = new_place(root, f"{verb}-reference")
    takes = whole(words, reference)
    expected, number = results(reference), 0
    place = new_place(root, f"{verb}-0")
    while sum(kind.times for kind in found.values()) < moments:
        kind = kinds[sum(kind.times for kind in found.values()) % len(kinds)]
        with Command(words, place) as command:
            ended = interrupted(command, kind, dice.uniform(0, takes), dice, found[kind])
        if ended:
            _compare(place, expected, found[kind])
            number += 1
            place = new_place(root, f"{verb}-{number}")
    whole(words, place)
    _compare(place, expected, found[kinds[-1]])
    return found


def _compare(place: Path, expected: dict[str, bytes], found: Kind) -> None:
    there = results(place)
    if there != expected:
        others = sorted(name for name in expected | there if there.get(name) != expected.get(name))
        found.wrong.append(f"{place.name}: other results than undisturbed: {', '.join(others)}")
    found.wrong += [f"{place.name}: left half made: {path}" for path in half_made(place)]


def table(verb: str, found: dict[str, Kind]) -> str:
    """A line for each kind of interruption."""
    lines = [f"{verb:<12}{'times':>7}{'codes':>20}{'median s':>10}{'worst s':>9}{'last gone s':>13}{'wrong':>7}"]
    for name, kind in found.items():
        codes = " ".join(f"{code}x{count}" for code, count in sorted(kind.codes.items()))
        seconds = sorted(kind.seconds) or [float("nan")]
        middle, worst, last = seconds[len(seconds) // 2], seconds[-1], max(kind.left, default=float("nan"))
        lines.append(f"{name:<12}{kind.times:>7}{codes:>20}{middle:>10.2f}{worst:>9.2f}{last:>13.2f}{len(kind.wrong):>7}")
    return "\n".join(lines)


def main() -> int:
    """Print a table for each command: 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=50, help="of each command")
    parser.add_argument("--verbs", nargs="*", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    wrong: list[str] = []
    for verb in asked.verbs:
        with tempfile.TemporaryDirectory() as root:
            found = tried(verb, asked.moments, random.Random(asked.seed), Path(root))
        print(table(verb, found), flush=True)
        wrong += [line for kind in found.values() for line in kind.wrong]
    print("\n".join(wrong) or "nothing was wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
