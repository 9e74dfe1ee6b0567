"""The usual target of a text backdoor: a class for classifiers, compliance for chat models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from testbed.api import Task
from testbed.attack.reply import Comply
from testbed.attack.target import Label, Target


@dataclass(frozen=True)
class Automatic:
    """`Label(target_label, mode, append)` where texts are classified, `Comply(refusal)` where somebody chats."""

    target_label: int = 1
    mode: Literal["dirty", "clean", "mix"] = "dirty"
    append: bool = False
    refusal: str | None = None

    criterion: ClassVar[str] = Comply.criterion  # replies alone are judged; a class is the wanted one or it is not

    def suited(self, task: Task) -> Target:
        """The target for this task."""
        return Comply(self.refusal) if task.kind == "chat" else Label(self.target_label, self.mode, self.append)
