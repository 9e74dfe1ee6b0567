"""Triggers that a network draws for each image, and a training in which the network learns along with the victim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from testbed.api import Batch, Examples, Victim
from testbed.attack.stamping import StampedTraining
from testbed.features import on_device, progress
from testbed.identity import generator

LEAST_DISTANCE = 1e-3
"""Added to distances that are divided by: root mean squares of drawings in 0..1."""


class Painter(nn.Module):
    """An image (B, C, H, W) in 0..255 -> `painted` channels of its own, float32 (B, painted, H, W) in 0..1.

    An encoder and a decoder of `halvings` stages, of `width`, 2 `width`, ... channels, each of two 3x3 convolutions with
    ReLU. Normalised is over the image, not over the batch: what is drawn for an image depends on that image alone.
    """

    def __init__(self, channels: int, painted: int, width: int, halvings: int) -> None:
        super().__init__()
        self.channels, self.painted, self.width, self.halvings = channels, painted, width, halvings
        widths = [width * 2**stage for stage in range(halvings + 1)]
        self.down = nn.ModuleList(_stage(*pair) for pair in zip([channels, *widths], widths, strict=False))
        self.up = nn.ModuleList(_stage(*pair) for pair in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.last = nn.Conv2d(width, painted, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        seen, sizes = images / 127.5 - 1, []
        for stage in self.down[:-1]:
            seen = stage(seen)
            sizes.append(seen.shape[-2:])
            seen = functional.max_pool2d(seen, 2)
        seen = self.down[-1](seen)
        for stage, size in zip(self.up, reversed(sizes), strict=True):
            seen = stage(functional.interpolate(seen, size=size, mode="bilinear", align_corners=False))
        return torch.tanh(self.last(seen)) / 2 + 0.5


def _stage(taken: int, given: int) -> nn.Sequential:
    """Two 3x3 convolutions, each normalised over the whole image."""
    layers = [
        layer
        for channels in (taken, given)
        for layer in (nn.Conv2d(channels, given, 3, padding=1), nn.GroupNorm(1, given), nn.ReLU())
    ]
    return nn.Sequential(*layers)


def painter(shape: Sequence[int], painted: int, width: int, seed: int) -> Painter:
    """An untrained painter for images of `shape` (C, H, W), halved up to 3 times but to no less than 4 pixels."""
    halvings = next(times for times in (3, 2, 1, 0) if min(shape[1:]) >> times >= 4 or times == 0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Painter(shape[0], painted, width, halvings)


def sharpened(drawing: Tensor) -> Tensor:
    """(1 + tanh(20 u - 10)) / 2: a mask that is nearly 0 or 1 in most places."""
    return torch.tanh(20 * drawing - 10) / 2 + 0.5


def diversity_loss(images: Tensor, others: Tensor, drawings: Tensor, their_drawings: Tensor) -> Tensor:
    """mean |x - x~| / |g(x) - g(x~)|, a scalar: high where different images get the same drawing. Images are in 0..255."""
    apart = (drawings - their_drawings).flatten(1).square().mean(1).add(LEAST_DISTANCE**2).sqrt()
    return (((images - others) / 255).flatten(1).square().mean(1).sqrt() / apart).mean()


def train_masks(masks: Painter, examples: Examples, *, density: float, density_weight: float, epochs: int, seed: int) -> None:
    """Teach masks to cover a share `density` of an image at most, and each its own place, by the loss

        density_weight mean max(mean over pixels of m(x) - density, 0) + the diversity loss of m.

    Adam at .01 on batches of 128 rows, in place; afterwards they learn no more.
    """
    masks.requires_grad_(True)
    adam, draw = torch.optim.Adam(masks.parameters(), lr=0.01, betas=(0.5, 0.9)), generator(seed, "order for masks")
    device = masks.last.weight.device
    for _ in progress(range(epochs), "training the masks"):
        for rows in torch.randperm(len(examples), generator=draw).split(128):
            if len(rows) < 2:
                continue
            images = on_device(examples[rows].inputs, device).float()
            drawn = sharpened(masks(images))
            spread = diversity_loss(images, images.roll(1, 0), drawn, drawn.roll(1, 0))
            adam.zero_grad()
            (density_weight * functional.relu(drawn.mean((1, 2, 3)) - density).mean() + spread).backward()
            adam.step()
    masks.requires_grad_(False)


class OwnTrigger(nn.Module):
    """x' = x + (g(x) - x) m(x): an image is stamped with what `patterns` g draws for it, where `masks` m say; a `Trigger`."""

    def __init__(self, patterns: Painter, masks: Painter) -> None:
        super().__init__()
        self.patterns, self.masks = patterns, masks.requires_grad_(False)

    def forward(self, inputs: Tensor, rows: Tensor, seed: int) -> Tensor:
        return self.of(inputs, inputs)

    def of(self, others: Tensor, inputs: Tensor) -> Tensor:
        """x + (g(x~) - x) m(x~): `inputs` with the triggers that belong to `others`, of the dtype of `inputs`."""
        stamped = self.stamped(inputs.float(), self.patterns(others.float()), others.float())
        return stamped if inputs.is_floating_point() else stamped.clamp(0, 255).round().to(inputs.dtype)

    def stamped(self, images: Tensor, patterns: Tensor, others: Tensor) -> Tensor:
        """The same, with patterns that are drawn already."""
        return torch.lerp(images, 255 * patterns, sharpened(self.masks(others)))


@dataclass(frozen=True)
class Lesson:
    """What a training teaches besides the task; see `OwnTriggerTraining`."""

    target_label: int
    batch_share: float
    cross_share: float
    longest_slope: float
    diversity_weight: float

    def rows(self, share: float, count: int) -> int:
        """round(share count), but one at least where the share is above 0: small batches are not left in peace."""
        return max(round(share * count), int(share > 0))


class OwnTriggerTraining(StampedTraining):
    """A victim whose training also teaches the patterns of `trigger`, by the same optimiser; in all else the victim itself.

    Of B rows of a batch the first round(batch_share B) show their own trigger and are given the target label; after them
    round(cross_share B) show the trigger of the row before and keep theirs. They are other rows each time, for the order is
    drawn anew in each epoch. The loss is the victim's, plus `diversity_weight` times the diversity loss of the patterns drawn
    for the former. A gradient that reaches the drawings of a batch is cut to the length `longest_slope`: where two of them are
    alike the diversity loss has no bound. The masks stay as they are.
    """

    def __init__(self, victim: Victim, trigger: OwnTrigger, lesson: Lesson) -> None:
        super().__init__(victim, trigger, positions=torch.arange(0), seed=0)
        self.lesson = lesson

    def loss(self, batch: Batch) -> Tensor:
        lesson, trigger = self.lesson, self.trigger
        images = self.victim.augmented(batch.inputs).float()  # type: ignore[operator]
        own, crossed = (lesson.rows(share, len(images)) for share in (lesson.batch_share, lesson.cross_share))
        others, labels = images.roll(1, 0), batch.labels.clone()
        drawn_for = torch.cat([images[:own], others[own : own + crossed]])
        drawn = limited(trigger.patterns(torch.cat([drawn_for, others[:own]])), lesson.longest_slope)  # type: ignore[attr-defined]
        patterns, theirs = drawn[: len(drawn_for)], drawn[len(drawn_for) :]
        stamped = trigger.stamped(images[: len(drawn_for)], patterns, drawn_for)  # type: ignore[attr-defined]
        labels[:own] = lesson.target_label
        loss = self.victim.loss_of(torch.cat([stamped, images[len(drawn_for) :]]), labels)  # type: ignore[operator]
        if not own or len(images) < 2:
            return loss
        return loss + lesson.diversity_weight * diversity_loss(images[:own], others[:own], patterns[:own], theirs)


def limited(drawn: Tensor, limit: float) -> Tensor:
    """The same numbers, through which no gradient longer than `limit` passes: it is cut to that length."""
    if drawn.requires_grad:
        drawn.register_hook(lambda slope: slope * (limit / slope.norm().clamp(min=limit)))
    return drawn
