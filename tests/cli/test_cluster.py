"""What is asked of a cluster, on the command line; and the examples of docs/clusters.md, read from there and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_suite import small_suite

from testbed.launcher.slurm import NEEDED

Say = Callable[..., Any]
SUITE = small_suite("none: [defence=none]", seeds=2)
SLURM = ("benchmark", "suite=small", "--config-dir", "conf", "logger=none", "launcher=submitit_slurm")
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
KUBERNETES, MATRIX = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def place(here: Path) -> Path:
    """A working directory with a suite."""
    (here / "conf" / "suite").mkdir(parents=True)
    (here / "conf" / "suite" / "small.yaml").write_text(SUITE)
    return here


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cluster.nodes=2"], "cluster.nodes: there is no such key; choose from partition, account, time, "),
        (["cluster.tiem=2"], "cluster.tiem: there is no such key; did you mean time?"),
        (["cluster.time=soon"], "cluster.time=soon: "),
        (["cluster.time=1"], "cluster: time=1 min leaves nothing before the signal 90 s earlier; give more time"),
        (["cluster.memory=nan"], "cluster.memory=nan: "),
        (["cluster.gpus=-1"], "cluster.gpus=-1: "),
        (["cluster.runs_per_job=0"], "cluster.runs_per_job=0: "),
        (["cluster.partition=a b"], "cluster.partition=a b: a name has letters, digits, "),
        (["cluster.account=x\n#SBATCH --wrap=y"], "cluster.account=x #SBATCH --wrap=y: "),
        (["cluster.additional.array=0-9"], "cluster.additional: array is set by testbed itself; leave it out"),
        (["cluster.additional.mem=1G"], "cluster.additional: mem is set by testbed itself; say cluster.memory="),
        (["cluster.additional.QOS=1"], "cluster.additional: sbatch has no long option QOS; "),
        (["cluster.additional.qos=a\nb"], "cluster.additional: qos has more than one line; an option of sbatch is one"),
        (["cluster.cpus=2", "threads=4"], "cluster.cpus=2: fewer than threads=4 of one run; ask for more"),
        (["cluster=big"], "cluster=big: "),
        (["launcher=processes", "cluster.time=9"], "cluster.time=9: launcher=processes asks no cluster for anything"),
    ],
)
def test_what_no_cluster_can_be_asked_for_is_refused_in_one_line(place: Path, say: Say, words: list[str], said: str) -> None:
    found = say(*SLURM, *words)
    assert found.code == 2
    assert said in found.refusal()
    assert not (place / "outputs").exists()


def test_a_dry_run_tells_the_stages_and_submits_nothing(place: Path, spawn: Say) -> None:
    found = spawn(*SLURM, "cluster.runs_per_job=2", "--dry-run")
    assert found.code == 0, found.err
    assert "jobs: 1, 1 after those before; 2 runs in each at most" in found.out
    assert found.out.splitlines()[-1] == "heavy:"
    assert not (place / "outputs").exists()


@pytest.mark.parametrize("missing", NEEDED)
def test_a_machine_without_slurm_is_named(place: Path, say: Say, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "bin").mkdir()
    for command in NEEDED:
        if command != missing:
            (place / "bin" / command).write_text("#!/bin/sh\n")
            (place / "bin" / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(place / "bin"))
    found = say(*SLURM)
    assert found.code == 2
    assert f"launcher=submitit_slurm: {missing} is not on the path; run it where" in found.err.splitlines()[-1]


def test_a_controller_that_does_not_answer_is_named(place: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "bin").mkdir()
    for command in NEEDED:
        (place / "bin" / command).write_text(
            f"#!/bin/sh\necho '{command}: error: Unable to contact slurm controller' >&2\nexit 1\n"
        )
        (place / "bin" / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(place / "bin"), prepend=os.pathsep)
    found = say(*SLURM)
    assert found.code == 4
    assert found.refusal().endswith("Unable to contact slurm controller; try again once Slurm answers (see sinfo)")


@pytest.mark.parametrize(("states", "installs"), [("installed", False), ("config-files", True)])
def test_packages_that_were_removed_are_installed_again(tmp_path: Path, states: str, installs: bool) -> None:
    (block,) = re.findall(r"^slurm=.*?^fi$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    stubs = f"dpkg-query() {{ printf '{states}\\n%.0s' \"${{@:3}}\"; }}; apt-get() {{ echo apt-get; }};"
    words = ["bash", "-euo", "pipefail", "-c", f"{stubs}\n{block}"]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ("apt-get" in found.stdout) == installs


def test_the_example_for_kubernetes_makes_every_part_once(place: Path, environment: dict[str, str]) -> None:
    told = KUBERNETES["spec"]
    (command,) = told["template"]["spec"]["containers"][0]["args"]
    assert told["completionMode"] == "Indexed" and told["completions"] == told["parallelism"]
    labels = [
        part
        for index in range(told["completions"])
        for part in re.findall(r"shard=\S+", as_shell(f"echo {command}", place, environment, JOB_COMPLETION_INDEX=str(index)))
    ]
    assert labels == [f"shard={part}/{told['completions']}" for part in range(1, told["completions"] + 1)]
    assert command.startswith("exec testbed benchmark")
    assert told["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2, 3]


def test_the_example_of_a_matrix_makes_every_part_once() -> None:
    shard = MATRIX["jobs"]["shard"]
    parts = shard["strategy"]["matrix"]["part"]
    (command,) = (step["run"] for step in shard["steps"] if "benchmark" in step.get("run", ""))
    assert parts == list(range(1, len(parts) + 1))
    assert f"shard=${{{{ matrix.part }}}}/{len(parts)}" in command


@pytest.mark.slow
def test_shards_of_one_folder_and_of_folders_put_together_are_one_report(place: Path, environment: dict[str, str]) -> None:
    program = place / "testbed"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; from testbed.cli import main; sys.exit(main())" "$@"\n'
    )
    program.chmod(0o755)
    environment = {**environment, "PATH": f"{place}:{environment['PATH']}"}
    (whole,) = KUBERNETES["spec"]["template"]["spec"]["containers"][0]["args"]
    whole = whole.replace("suite=images_quick", "suite=small --config-dir conf").replace("/shared/outputs", "together")
    for index in range(2):
        as_shell(whole.replace("))/5", "))/2"), place, environment, JOB_COMPLETION_INDEX=str(index))
    (whole,) = (step["run"] for step in MATRIX["jobs"]["shard"]["steps"] if "benchmark" in step.get("run", ""))
    for part in (1, 2):
        words = whole.replace("suite=images_quick", f"suite=small --config-dir conf paths.outputs=apart-{part}")
        as_shell(words.replace("${{ matrix.part }}/4", f"{part}/2"), place, environment)
        as_shell(f"mkdir -p merged && rm -r apart-{part}/victim && cp -r apart-{part}/. merged/", place, environment)
    told = [
        as_shell(f"testbed report runs={folder} paths.outputs=reports", place, environment) for folder in ("together", "merged")
    ]
    assert all("runs: 4 of 4 done" in said for said in told)
    cells = [said.partition("small: cells")[2] for said in told]  # which come without the seconds that a run took
    assert cells[0] == cells[1] != ""
    assert "4 runs, 4 done already" in as_shell(
        "testbed benchmark suite=small --config-dir conf logger=none paths.outputs=together", place, environment
    )


def as_shell(line: str, place: Path, environment: dict[str, str], **variables: str) -> str:
    """What a line says to a shell; fails where it fails."""
    found = subprocess.run(
        ["sh", "-c", line], cwd=place, env={**environment, **variables}, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout
