"""What defences share that change a query before the model sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from testbed.api import Batch, ImageTask, Task, Unsupported, Victim, Wrapper


class Preprocessed(Wrapper):
    """Answers as `victim` does, to inputs that `change` has gone over: images (B, C, H, W) in 0..255 to images of that shape.

    What `change` does to an image must not depend on the others of its batch.
    """

    def __init__(self, victim: Victim, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(victim)
        self.change = change

    def forward(self, inputs: Tensor) -> Tensor:
        return self.victim(self.change(inputs))

    def answers(self, inputs: Tensor) -> Any:
        return self.victim.answers(self.change(inputs))

    def loss(self, batch: Batch) -> Tensor:
        return self.victim.loss(batch._replace(inputs=self.change(batch.inputs)))

    def features(self, inputs: Tensor, layer: str) -> Tensor:
        return self.victim.features(self.change(inputs), layer)

    def observe(self, inputs: Tensor, layer: str) -> tuple[Tensor, Tensor]:
        return self.victim.observe(self.change(inputs), layer)


def require_images(task: Task) -> ImageTask:
    """The task, if it is one of images; raises `Unsupported` otherwise."""
    if not isinstance(task, ImageTask):
        raise Unsupported(f"needs images, not {task.kind}")
    return task
