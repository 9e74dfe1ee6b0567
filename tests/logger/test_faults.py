"""W&B not asked for, offline, out of reach, on a full disk, and killed: the local results are the same bytes in all five."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testbed.logger.wandb import WandbLogger

from .kept import kept_summary
from .test_wandb import closed

ROOT = Path(__file__).resolve().parents[2]
MORE = 5.0
"""Seconds that W&B may add to a run, whatever becomes of it."""
FULL = 18 * 2**20
"""Bytes of the disk that is too small: more than the client is refused, less than it wants to write."""
SHOW = """
import sys, time
from pathlib import Path
from testbed.logger.wandb import WandbLogger
import wandb
print("begun", flush=True)
begun = time.monotonic()
WandbLogger().show(Path(sys.argv[1]), Path(sys.argv[2]))
wandb.teardown()
print(time.monotonic() - begun, flush=True)
"""
RUN = """
import sys, time
import testbed.pipeline.train, testbed.training, testbed.telling, torchvision, sklearn.datasets, wandb
from testbed.cli import main
begun = time.monotonic()
code = main(sys.argv[1:])
print(time.monotonic() - begun, flush=True)
sys.exit(code)
"""
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"


@pytest.fixture
def pictured(run: Callable[..., Path], tmp_path: Path) -> Path:
    """A run folder with more bytes in its pictures than the disk will take: noise, which does not get smaller."""
    folder, noise = run(), np.random.default_rng(0)
    for number in range(3):
        pixels = noise.integers(0, 256, (1600, 1600, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "figures" / f"noise_{number}.png", compress_level=0)
    return folder


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def on_a_small_disk(place: Path, size: int = FULL) -> list[str]:
    """What to put before a command so that it finds a small disk there; nothing where this system permits no such thing."""
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    for leave in (["unshare", "-m"], ["unshare", "-Urm"]):
        command = [*leave, "sh", "-c", mount, str(place)]
        if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    return []


def shown(folder: Path, outputs: Path, before: Sequence[str] = (), head: str = "") -> subprocess.CompletedProcess[str]:
    """Show a run in a process of its own, which says how long that took."""
    program = [*before, sys.executable, "-c", head + SHOW, str(folder), str(outputs)]
    return subprocess.run(program, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)


def test_a_disk_that_fills_while_a_view_is_written_costs_seconds_and_nothing_else(pictured: Path, outputs: Path) -> None:
    (outputs / "wandb").mkdir()
    before, disk = digests(pictured), on_a_small_disk(outputs / "wandb")
    # A limit on the size of a file is the nearest thing where no disk can be made: it, too, is met in the middle of writing.
    found = shown(pictured, outputs, disk, "" if disk else LIMITED)
    assert found.returncode == 0 and "Traceback" not in found.stderr, found.stderr
    seconds = float(found.stdout.splitlines()[-1])
    print(f"disk full in the middle ({'a disk of its own' if disk else 'a limit on files'}): {seconds:.1f} s")
    assert seconds < MORE
    assert "not shown" in found.stderr and str(pictured) in found.stderr, found.stderr
    assert digests(pictured) == before
    WandbLogger().show(pictured, outputs)
    assert kept_summary(outputs)["status"] == "done", "once there is room again, it is shown"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_moment_it_harms_nothing_and_is_shown_the_next_time(
    run: Callable[..., Path], outputs: Path, dice: random.Random
) -> None:
    folder = run()
    before = digests(folder)
    for _ in range(3):
        program = [sys.executable, "-c", SHOW, str(folder), str(outputs)]
        variables = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(program, env=variables, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert child.stdout is not None and child.stdout.readline() == "begun\n"
        moment = dice.uniform(0, 1.0)
        time.sleep(moment)
        os.killpg(child.pid, signal.SIGKILL)  # its own service with it
        child.communicate()
        print(f"killed after {moment:.2f} s")
        assert digests(folder) == before
    shutil.rmtree(outputs / "wandb" / "shown", ignore_errors=True)
    WandbLogger().show(folder, outputs)
    assert kept_summary(outputs)["status"] == "done"


@pytest.fixture
def dice() -> random.Random:
    """Of a seed that a failing test names."""
    seed = int(time.time())
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_run_leaves_the_same_bytes_in_all_five(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seconds, results, said = dict[str, float](), dict[str, bytes](), dict[str, str]()
    for condition in ("none", "offline", "unreachable", "disk full", "killed"):
        place = tmp_path / condition
        (place / "wandb").mkdir(parents=True)
        seconds[condition], said[condition] = made(condition, place)
        (result,) = place.glob("train/*/result.json")
        results[condition] = result.read_bytes()
        assert json.loads(results[condition])["status"] == "done"
    with capfd.disabled():
        print("\n" + ", ".join(f"{name} {taken:.1f} s" for name, taken in seconds.items()))
    assert len(set(results.values())) == 1
    assert max(taken - seconds["none"] for taken in seconds.values()) < MORE
    assert "no space left" in said["disk full"] and "kept offline" in said["unreachable"], said


def made(condition: str, place: Path) -> tuple[float, str]:
    """Seconds that a run took in this condition, imports apart, and what it said on standard error."""
    words = ["train", "attack=badnets", "defence=fine_tuning", "trainer.max_epochs=3", "model.network.width=4"]
    words += [f"paths.outputs='{place}'", "logger=none" if condition == "none" else "logger=wandb"]
    words += ["logger.mode=online"] if condition == "unreachable" else []
    disk = on_a_small_disk(place / "wandb", 4 * 2**20) if condition == "disk full" else []
    assert disk or condition != "disk full", (
        "this system permits no disk of one's own: run it as root, or in a container that is"
    )
    program = [*disk, sys.executable, "-c", RUN, *words]
    nobody = {"WANDB_BASE_URL": closed(), "WANDB_API_KEY": "0123456789" * 4} if condition == "unreachable" else {}
    variables = {**os.environ, **nobody, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if condition == "killed":
        # As it shows what it has committed; the same command then finds that done.
        with subprocess.Popen(program, env=variables, stdout=subprocess.DEVNULL, start_new_session=True) as child:
            while child.poll() is None and not any(place.glob("wandb/offline-run-*")):
                time.sleep(0.01)
            assert child.poll() is None
            os.killpg(child.pid, signal.SIGKILL)
    done = subprocess.run(program, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1]), done.stderr
