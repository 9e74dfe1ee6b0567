"""What was found in a stranger's file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

KINDS = ("safetensors", "state_dict", "backdoorbench", "peft")


@dataclass(frozen=True)
class Opened:
    """The dense tensors in a file, the plain data beside them, and how it was read.

    `facts` are strings, numbers, lists and mappings that whoever made the file wrote: claims to be shown or compared, never
    to be instantiated, rendered, matched as a regular expression, or fetched from. Characters that a terminal would obey
    stand escaped in them. `sha256` is over the bytes that were read; of a folder, over what `sha256sum` prints of the files
    read, sorted by name. `sandbox` says what the process that read it could not do.
    """

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]
    kind: str
    sha256: str
    sandbox: str
