"""A run that needs more memory than there is costs itself alone, and says how much it had and what to change."""

from __future__ import annotations

import errno
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from testbed.shortage import out_of_memory, told
from testbed.words import Faulty

HUNGRY = """
import mmap
from dataclasses import dataclass

import numpy as np
import torch

from testbed.api import Defence

HOW = {
    "in training": lambda: torch.empty(2**35),
    "in numpy": lambda: np.empty(2**37, np.uint8),
    "nowhere": lambda: None,
}

@dataclass(frozen=True)
class Hungry(Defence):
    where: str

    def after_training(self, victim, resources):
        def loss(model, batch):
            HOW[self.where]()
            return model.loss(batch)

        return resources.fit(victim, resources.reserve, epochs=1, loss=loss)
"""
LIMIT = 16 * 2**30
"""Bytes of address space: many times what PyTorch's libraries take, and less than what the defence asks for."""


def test_a_hungry_run_costs_itself_and_says_how_much_it_had(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "mine.py").write_text(HUNGRY)
    words = ["train", "-m", "defence._target_=mine.Hungry", "+defence.where='in training','in numpy','nowhere'", "logger=none"]
    done = subprocess.run(
        [sys.executable, "-m", "testbed.cli", *words, "trainer.max_epochs=1", "trainer.batch_size=96", "model.network.width=2"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT)),
    )
    found = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/train/*/result.json")]
    assert done.returncode == 1 and "3 runs: 1 done, 2 not" in done.stderr, done.stderr
    assert sorted(result["status"] for result in found) == ["done", "failed", "failed"]
    for result in found:
        if result["status"] == "failed":
            line = (
                r"out of memory \(trainer\.batch_size=96, \d\.\d GB used at most\): defence mine\.Hungry \(mine\.py, line \d+\)"
            )
            assert re.match(line, result["reason"]) and "(jobs=)" in result["reason"], result["reason"]
            assert "\n" not in result["reason"] and result["reason"] in done.stdout


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ..."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 9.77 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_libraries_raise_is_recognised_behind_what_we_make_of_it(error: Exception) -> None:
    try:
        try:
            raise error
        except Exception as cause:
            raise Faulty("defence mine.Mine (mine.py): it failed") from cause
    except Faulty as faulty:
        assert out_of_memory(faulty) and out_of_memory(error)
        assert "batch_size" not in told(faulty, {}).partition(":")[0] and "trainer.batch_size=8," in told(
            faulty, {"trainer": {"batch_size": 8}}
        )


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("shapes differ"), OSError(errno.ENOSPC, "full")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not out_of_memory(error)
