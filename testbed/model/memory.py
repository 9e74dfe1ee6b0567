"""How much memory it takes to train a network, and how much there is: told before any weight is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from testbed.words import Refused

GIGA = 1e9
COPIES = 4
"""What training starts from, the base, the copy that is trained, and the one that is shown to whoever measures."""


class TooLarge(Refused, MemoryError):
    """A model that does not fit into the memory that is free: exit code 4."""


@dataclass(frozen=True)
class Need:
    """Bytes. `weights` are those of one copy; `gradients` and `optimiser` (Adam's two moments) those of what is trained."""

    weights: int
    gradients: int
    optimiser: int

    @property
    def total(self) -> int:
        return COPIES * self.weights + self.gradients + self.optimiser

    def __str__(self) -> str:
        parts = f"weights {_giga(self.weights)} {COPIES} times, gradients {_giga(self.gradients)}"
        return f"{_giga(self.total)} GB to train ({parts}, optimiser {_giga(self.optimiser)}; activations come on top)"


def need_of(network: torch.nn.Module) -> Need:
    """What training a network takes, by its parameters' types; it may lie on the meta device, where it has no numbers."""
    values = list(network.parameters())
    trained = sum(value.nbytes for value in values if value.requires_grad)
    return Need(sum(value.nbytes for value in values), trained, 2 * trained)


def require_room(need: Need, what: str, advice: str, free: Callable[[], tuple[int, str]] | None = None) -> None:
    """Raises `TooLarge` where less is free than is needed; `free` says how much, and where."""
    there, where = (free or free_memory)()
    if need.total > there:
        raise TooLarge(f"{what}: needs at least {need}, {_giga(there)} GB are free {where}; {advice}", 4)


_roomy: set[str] = set()


def require_room_once(need: Callable[[], Need], what: str, advice: str) -> None:
    """Once for each model: a run builds its victim several times, and then what is free is partly its own."""
    if what not in _roomy:
        require_room(need(), what, f"{advice}; model.check_memory=false tries all the same")
        _roomy.add(what)


def free_memory() -> tuple[int, str]:
    """Bytes that are free where a model would be trained: on the GPU if there is one."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), "on the GPU"
    import psutil

    return min(int(psutil.virtual_memory().available), _left_to_container()), "in memory"


def _left_to_container(group: Path = Path("/sys/fs/cgroup")) -> int:
    """What a container's limit leaves; very much where there is none."""
    try:
        limit = (group / "memory.max").read_text(encoding="utf-8").strip()
        used = int((group / "memory.current").read_text(encoding="utf-8"))
        files = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):  # no such limits on this system
        return 2**62
    return 2**62 if limit == "max" else int(limit) - used + int(files.get("inactive_file", 0))


def _giga(count: int) -> str:
    return f"{count / GIGA:.1f}"
