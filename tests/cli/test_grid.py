"""A grid by the real command line: filled side by side, resumed, cut into shards, recognised, and never spoilt by one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_suite import small_suite

Say = Callable[..., Any]
SUITE = small_suite("none: [defence=none], repair: [defence=fine_tuning, defence.epochs=1]")
MINE = """
import os
import signal
import time
from dataclasses import dataclass
from testbed.api import Defence

@dataclass(frozen=True)
class Mine(Defence):
    how: str = "well"

    def after_training(self, victim, resources):
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "gone":
            os._exit(0)
        if self.how == "slow":
            with open("process", "w") as stream:
                stream.write(str(os.getpid()))
            time.sleep(600)
        return victim
"""


@pytest.fixture
def place(here: Path) -> Path:
    """A working directory with a suite, a plug-in, and a defence of it for each way to end."""
    (here / "conf" / "suite").mkdir(parents=True)
    (here / "conf" / "defence").mkdir()
    (here / "conf" / "suite" / "small.yaml").write_text(SUITE)
    (here / "mine.py").write_text(MINE)
    for how in ("well", "killed", "gone", "slow"):
        (here / "conf" / "defence" / f"{how}.yaml").write_text(f"_target_: mine.Mine\nhow: {how}\n")
    return here


def statuses(place: Path) -> dict[str, int]:
    """How many runs in the index ended how."""
    found = [json.loads(path.read_text())["status"] for path in place.glob("outputs/index/*/*.json")]
    return {status: found.count(status) for status in sorted(set(found))}


def made_at(place: Path) -> dict[str, str]:
    return {path.parent.name: json.loads(path.read_text())["made_at"] for path in place.glob("outputs/train/*/run.json")}


def test_a_grid_is_filled_recognised_without_importing_and_rerun_only_where_something_changed(place: Path, spawn: Say) -> None:
    words = ("benchmark", "suite=small", "defence=well", "--config-dir", "conf", "logger=none")
    first = spawn(*words)
    assert first.code == 0, first.err
    departures = "without method repair; method well added; 2 of its 4 runs not asked for"
    assert f"4 runs, 0 done already; departures from the suite: {departures}" in first.out
    assert statuses(place) == {"done": 4}
    before = made_at(place)

    again = spawn(*words)
    assert again.code == 0
    assert "4 runs, 4 done already" in again.out
    assert again.out.splitlines()[-1] == "heavy:"
    assert again.seconds < 2
    assert made_at(place) == before

    damaged = next(place.glob("outputs/train/badnets-none-*/result.json"))
    told = damaged.read_bytes()
    damaged.write_bytes(b"")
    (place / "mine.py").write_text(MINE + "\n# edited\n")
    edited = spawn(*words)
    assert edited.code == 0 and "4 runs, 1 done already" in edited.out and damaged.read_bytes() == told
    made = made_at(place)
    assert made.pop(damaged.parent.name) > before.pop(damaged.parent.name)
    assert {name: made[name] for name in before} == before
    assert sorted(name.rpartition("-")[0] for name in made.keys() - before.keys()) == [
        "badnets-well-digits-s0",
        "none-well-digits-s0",
    ]


def test_a_killed_a_vanished_and_a_slow_run_cost_only_themselves(place: Path, spawn: Say) -> None:
    words = ("benchmark", "suite=small", "attack=badnets", "--config-dir", "conf", "logger=none", "timeout=10", "jobs=3")
    found = spawn(*words, "defence=repair,killed,gone,slow")
    assert found.code == 1
    assert statuses(place) == {"done": 4, "killed": 4, "timeout": 2}
    assert "killed: digits badnets killed s0: its process was ended by SIGKILL (out of memory?)" in found.err
    assert "killed: digits badnets gone s0: its process ended by itself with exit code 0" in found.err
    assert "timeout: digits badnets slow s0: it took longer than 10 s" in found.err
    results = [json.loads(path.read_text())["status"] for path in place.glob("outputs/train/*slow*/result.json")]
    assert results == ["timeout", "timeout"]
    assert "Traceback" not in found.err
    assert "semaphore" not in found.err


def test_an_interrupted_grid_goes_on_where_it_was(place: Path, environment: dict[str, str]) -> None:
    words = ["benchmark", "suite=small", "defence=slow", "attack=badnets", "--config-dir", "conf", "logger=none", "jobs=2"]
    child = subprocess.Popen(
        [sys.executable, "-m", "testbed.cli", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("[2/4]"):  # both runs without the slow defence
            break
    os.killpg(child.pid, signal.SIGINT)
    said = child.communicate(timeout=60)[0]
    assert child.returncode == 130, said
    assert "run the same command again to resume" in said
    before = made_at(place)
    (place / "conf" / "defence" / "slow.yaml").write_text("_target_: mine.Mine\nhow: well\n")
    rest = subprocess.run(
        [sys.executable, "-m", "testbed.cli", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert rest.returncode == 0, rest.stderr
    assert statuses(place) == {"done": 4}
    after = made_at(place)
    assert {name: after[name] for name in before if "none-digits" in name} == {
        name: moment for name, moment in before.items() if "none-digits" in name
    }


def test_a_killed_driver_takes_its_workers_with_it(place: Path, environment: dict[str, str]) -> None:
    words = ["benchmark", "suite=small", "defence=slow", "attack=badnets", "--config-dir", "conf", "logger=none", "jobs=1"]
    child = subprocess.Popen([sys.executable, "-m", "testbed.cli", *words], env=environment, stdout=subprocess.DEVNULL)
    process = wait_for(lambda: int((place / "process").read_text() or 0) if (place / "process").is_file() else 0)
    child.kill()
    child.wait()
    wait_for(lambda: not Path(f"/proc/{process}").exists())
    ends = [json.loads(path.read_text())["status"] for path in place.glob("outputs/train/*slow*/result.json")]
    assert ends == ["interrupted"]


def wait_for(seen: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What this says as soon as it says something; fails where it never does."""
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return found


def test_a_grid_in_this_process_ends_where_it_is_told_to(place: Path, environment: dict[str, str]) -> None:
    words = [
        "benchmark",
        "suite=small",
        "defence=slow",
        "attack=badnets",
        "--config-dir",
        "conf",
        "logger=none",
        "launcher=basic",
    ]
    child = subprocess.Popen([sys.executable, "-m", "testbed.cli", *words], env=environment, stdout=subprocess.DEVNULL)
    wait_for((place / "process").is_file)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 143
    assert statuses(place) == {"done": 1, "interrupted": 1}


def test_other_words_for_the_folder_of_outputs_are_understood(place: Path, say: Say) -> None:
    words = ("benchmark", "suite=small", "attack=badnets", "--config-dir", "conf", "logger=none", "launcher=basic", "shard=1/2")
    found = say(*words, "++paths.outputs='a, b'")
    assert found.code == 0, found.err
    assert len(list(place.glob("a, b/train/*/result.json"))) == 2
    assert not (place / "outputs").exists()


def test_an_edited_data_plug_in_is_to_be_run_again(place: Path, spawn: Say) -> None:
    data = "from testbed.data.digits import digits\n\ndef load(**options):\n    return digits(**options)\n"
    (place / "rows.py").write_text(data)
    words = ("benchmark", "suite=small", "data._target_=rows.load", "attack=none", "defence=none", "--config-dir", "conf")
    options = ("logger=none", "launcher=basic")
    assert spawn(*words, *options).code == 0
    assert "1 runs in 1 cells; 1 are done already" in spawn(*words, *options, "--dry-run").out
    (place / "rows.py").write_text(data.replace("options)", "{**options, 'reserve_per_class': 10})"))
    assert "1 runs in 1 cells; 0 are done already" in spawn(*words, *options, "--dry-run").out


def test_shards_together_are_the_whole_and_each_is_less(place: Path, say: Say) -> None:
    words = ("benchmark", "suite=small", "--config-dir", "conf", "logger=none", "launcher=basic")
    part = say(*words, "shard=2/2")
    assert part.code == 0, part.err
    assert "shard 2/2: 2 runs, 0 done already" in part.out
    rest = say(*words, "shard=1/2")
    assert "shard 1/2: 2 runs, 0 done already" in rest.out
    whole = say(*words)
    assert "4 runs, 4 done already" in whole.out


def test_a_dry_run_tells_cells_time_and_disk_and_makes_nothing(place: Path, spawn: Say) -> None:
    found = spawn("benchmark", "suite=small", "seeds=3", "--dry-run", "--config-dir", "conf")
    assert found.code == 0, found.err
    assert "12 runs in 4 cells; 0 are done already" in found.out
    assert "seeds: this suite tests no differences" in found.out
    assert "time: not known before some runs are made" in found.out
    assert found.out.splitlines()[-1] == "heavy:"
    assert not (place / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["suite=smal"], "suite=smal: there is no such suite; did you mean small?"),
        ([], "suite: must be given; say suite=NAME (testbed list suite)"),
        (["suite=small", "defence=fine_tunning"], "defence=fine_tunning: there is no such defence; did you mean fine_tuning?"),
        (["suite=small", "attack=blended"], "attack=blended: the suite has no such name; choose from badnets, none"),
        (["suite=small", "detector=strip"], "detector: this suite compares methods of the group defence; say defence=NAME"),
        (["suite=small", "seeds=0"], "seeds"),
        (["suite=small", "seeds=x"], "seeds=x: "),
        (["suite=small", "shard=3/2"], "shard=3/2: the first number is at most the second"),
        (["suite=small", "timeout=0"], "timeout=0: "),
        (["suite=small", "rates=0.5"], "rates=0.5: the attacks of this suite keep their own"),
        (
            ["suite=small", "trainer.max_epoch=1"],
            "trainer.max_epoch: there is no such key in trainer; did you mean max_epochs?",
        ),
        (["suite=small", "seed=3"], "seed: the suite gives it to every run; say seeds= to choose others"),
        (["suite=small", "paths.outputs=${oc.env:HOME}"], "paths.outputs=${oc.env:HOME}: give the folder itself"),
        (
            ["suite=small", "logger=wandb", "logger.mod=online"],
            "logger.mod: there is no such key in logger; did you mean mode?",
        ),
        (["suite=small", "nonsense"], "nonsense: this is not key=value; see testbed benchmark --help"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_run(
    place: Path, say: Say, words: list[str], said: str
) -> None:
    found = say("benchmark", "logger=none", *words, "--config-dir", "conf")
    assert found.code == 2
    assert said in found.refusal()
    assert not list(place.glob("outputs/train/*"))
