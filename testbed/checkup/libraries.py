"""PyTorch, asked in a process of its own: a driver that does not fit may end it, and then that is the answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from testbed.checkup.finding import Finding

PATIENCE = 120
"""Seconds to import PyTorch on a slow disk and to try a GPU."""
QUESTION = """
import json, warnings
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as said:
    import torch
    told = {"version": torch.__version__, "threads": torch.get_num_threads(), "built": torch.version.cuda or torch.version.hip}
    told["works"] = torch.cuda.is_available()
    told["gpus"], told["fault"] = [], ""
    try:
        for number in range(torch.cuda.device_count() if told["works"] else 0):
            free, whole = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            told["gpus"].append({"name": name, "free": free, "whole": whole})
            assert torch.ones(8, device=f"cuda:{number}").sum().item() == 8
    except Exception as error:
        told["fault"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
told["said"] = [" ".join(str(one.message).split())[:200] for one in said]
print(json.dumps(told))
"""
DEVICES = ("/dev/nvidiactl", "/dev/kfd")
"""Which a driver of a GPU makes."""


def pytorch() -> Iterator[Finding]:
    """Whether PyTorch works, with how many threads, and whether it can use the GPUs that there are."""
    told, fault = _answer()
    if told is None:
        yield Finding("problem", "PyTorch", fault, "install it again for this machine (pip install --force-reinstall torch)")
        return
    yield Finding("ok", "PyTorch", f"{told['version']}, {told['threads']} threads of its own{_spinning()}")
    yield from _gpus(told, driver=any(Path(device).exists() for device in DEVICES))


def _answer() -> tuple[Mapping[str, Any] | None, str]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", QUESTION],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return None, f"it could not be imported within {PATIENCE} s"
    try:
        return json.loads(done.stdout.splitlines()[-1]), ""
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return None, f"it cannot be used (exit code {done.returncode}: {last[:200]})"


def _gpus(told: Mapping[str, Any], *, driver: bool) -> Iterator[Finding]:
    advice = "install a PyTorch for this driver (pip install torch --index-url URL), or say trainer.accelerator=cpu"
    if told["fault"]:
        yield Finding("warning", "GPU", told["fault"], advice)
    elif told["works"]:
        for gpu in told["gpus"]:
            yield Finding("ok", "GPU", f"{gpu['name']}, {gpu['free'] / 1e9:.0f} of {gpu['whole'] / 1e9:.0f} GB free")
    elif driver and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield Finding("ok", "GPU", "hidden by CUDA_VISIBLE_DEVICES; everything runs on processors")
    elif driver:
        why = next(iter(told["said"]), f"this PyTorch is built for {told['built'] or 'no GPU'}")
        yield Finding("warning", "GPU", f"there is a driver, but PyTorch cannot use it: {why}", advice)
    else:
        yield Finding("ok", "GPU", "none; everything runs on processors")


def _spinning() -> str:
    return " (waiting by spinning: OMP_WAIT_POLICY=active)" if os.environ.get("OMP_WAIT_POLICY", "").lower() == "active" else ""
