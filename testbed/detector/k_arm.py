"""K-Arm: trigger inversion for whichever class, or pair of classes, promises most at the moment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from testbed.api import DefenderResources, Inspection, Invalid, ModelDetector, Victim
from testbed.detector.answering import require_rows_of_each_class
from testbed.detector.requirement import require_above, require_at_least, require_between, require_images
from testbed.features import batches, on_device, progress
from testbed.identity import generator
from testbed.numerics.resumable_inversion import Effort, ResumableInversion
from testbed.numerics.trigger_inversion import InvertedTriggers, frozen

SMALLEST = 1e-9
"""A mask's share of the image, where images are answered with the target without any: there the mask shrinks to 0."""


class Arm(NamedTuple):
    """A backdoor that there might be: toward `target`, from all other classes, or where it is not None from `source` alone."""

    target: int
    source: int | None
    search: ResumableInversion


@dataclass(frozen=True)
class KArm(ModelDetector):
    """Inverts patches on the clean reserve, a few steps at a time, for the arm that has the highest reward so far.

    Arms are classes c ('universal': from all other classes) and pairs s -> c. Screened first: c stays where it is among the
    `ceil(top_share K)` highest logits of `universal_screen` of the images of other classes, s -> c where it is among those of
    `pair_screen` of the images of s; all classes stay where none would. Every arm has `warm_up_rounds`; then in each of
    `rounds` a random arm (with probability `explore`) or that of the highest reward goes on for `steps / rounds` steps:
    `reward = (1 - a) / rounds so far + beta / a`, a the mean of its smallest mask that worked (1 where none did).

    Scores float64 (K,): of the arms toward a class the highest `log(bound / a)`, of pairs at most
    `log(a(c -> s) / a(s -> c) / symmetry_ratio)`: natural features separate both ways alike. Flagged: scores above 0.
    `triggers` are of the best arm of each class, as `InvertedTriggers`; a class without arms has a mask of ones.

    Paper's and code's: explore .3, screen .25, .95, .9, 60 rounds, 1,000 steps, ratio 10, and by TrojAI's images of 224 x 224
    pixels bounds of 1,720 and 1,000 pixels and beta 1e4, which are shares here: 1720 / 224^2 = .0343, 1000 / 224^2 = .0199,
    1e4 / 224^4 = 4e-6, of images of any size. Ours, where the source is not at hand: the 1,000 steps shared out over 60 rounds;
    all classes stay where the screen leaves none; every arm scored, of which the paper judges the best; costs doubled and
    divided by 2^1.5 as in Neural Cleanse, where the code has 1.5.

    Source: Shen et al. 2021 (ICML, arXiv 2102.05123).
    """

    rounds: int = 60
    steps: int = 1000
    warm_up_rounds: int = 2
    explore: float = 0.3
    beta: float = 4e-6
    top_share: float = 0.25
    universal_screen: float = 0.95
    pair_screen: float = 0.9
    universal_bound: float = 0.0343
    pair_bound: float = 0.0199
    symmetry_ratio: float = 10.0
    batch_size: int = 32
    learning_rate: float = 0.1
    initial_cost: float = 0.001
    patience: int = 5
    success_threshold: float = 0.99

    def check(self, resources: DefenderResources) -> None:
        require_images(resources.task)
        require_rows_of_each_class(resources, 1)
        for parameter in ("rounds", "steps", "warm_up_rounds", "batch_size", "patience"):
            require_at_least(parameter, getattr(self, parameter), 1)
        for parameter in ("learning_rate", "initial_cost", "symmetry_ratio"):
            require_above(parameter, getattr(self, parameter), 0)
        for parameter in ("top_share", "universal_bound", "pair_bound", "success_threshold"):
            require_between(parameter, getattr(self, parameter), 0, 1)
        for parameter in ("explore", "universal_screen", "pair_screen"):
            if not 0 <= getattr(self, parameter) <= 1:
                raise Invalid(parameter, getattr(self, parameter), "must lie between 0 and 1", "it is a share")
        if not self.beta >= 0:
            raise Invalid("beta", self.beta, "must be at least 0", "0 rewards progress alone")

    def inspect(self, victim: Victim, resources: DefenderResources) -> Inspection:
        """Scores float64 (K,); the victim is read in evaluation mode and left as it was."""
        read = list(batches(resources.reserve, 256))
        images = on_device(torch.cat([batch.inputs for batch in read]), victim.device)
        labels = torch.cat([batch.labels for batch in read])
        classes, draw = len(resources.task.classes), generator(resources.seed, "k-arm")
        with frozen(victim):
            pairs = self.screened(_logits(victim, images, self.batch_size), labels)
            arms = [arm for target, source in pairs if (arm := self._arm(images, labels, target, source, draw))]
            self._pulled(victim, arms, draw)
            worth = [self._worth(victim, arm, images, labels, draw) for arm in arms]
            best = [
                max((place for place, arm in enumerate(arms) if arm.target == target), key=worth.__getitem__, default=None)
                for target in range(classes)
            ]
            triggers = _triggers(victim, [None if place is None else arms[place] for place in best], images)
        lowest = math.log(self.universal_bound)
        scores = torch.tensor([lowest if place is None else worth[place] for place in best], dtype=torch.float64)
        return Inspection(scores, tuple(torch.nonzero(scores > 0).flatten().tolist()), triggers)

    def screened(self, logits: Tensor, labels: Tensor) -> list[tuple[int, int | None]]:
        """(target, source) of the arms that are left for logits (n, K) of images of the classes `labels`."""
        classes = logits.shape[1]
        high = torch.zeros_like(logits, dtype=torch.bool)
        high.scatter_(1, logits.topk(math.ceil(self.top_share * classes), 1).indices, True)
        by_class = [_share(high[labels != target, target]) for target in range(classes)]
        universal = [target for target, share in enumerate(by_class) if share >= self.universal_screen]
        of_pair = {
            (target, source): _share(high[labels == source, target])
            for target in range(classes)
            for source in range(classes)
            if source != target
        }
        pairs = [pair for pair, share in of_pair.items() if share >= self.pair_screen and pair[0] not in universal]
        return [*((target, None) for target in universal or range(classes)), *pairs]

    def reward(self, search: ResumableInversion) -> float:
        """How fast the mask of an arm has shrunk so far, and how small it is."""
        return (1 - search.share) / max(1, search.rounds) + self.beta / max(search.share, SMALLEST)

    def _arm(self, images: Tensor, labels: Tensor, target: int, source: int | None, draw: torch.Generator) -> Arm | None:
        chosen = labels != target if source is None else labels == source
        if not chosen.any():
            return None
        effort = Effort(self.batch_size, self.learning_rate, self.initial_cost, self.patience, self.success_threshold)
        own = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=draw)))
        return Arm(target, source, ResumableInversion(images[chosen.to(images.device)], target, effort, own))

    def _pulled(self, victim: nn.Module, arms: Sequence[Arm], draw: torch.Generator) -> None:
        """The bandit: first each arm in turn, then by reward or by chance."""
        if not arms:
            return
        first = [arm for _ in range(self.warm_up_rounds) for arm in arms]
        for turn in progress(range(len(first) + self.rounds), "K-Arm"):
            chosen = first[turn] if turn < len(first) else self._choice(arms, draw)
            chosen.search.go_on(victim, self._steps)

    def _choice(self, arms: Sequence[Arm], draw: torch.Generator) -> Arm:
        if float(torch.rand((), generator=draw)) < self.explore:
            return arms[int(torch.randint(len(arms), (), generator=draw))]
        return max(arms, key=lambda arm: self.reward(arm.search))

    @property
    def _steps(self) -> int:
        return math.ceil(self.steps / self.rounds)

    def _worth(self, victim: nn.Module, arm: Arm, images: Tensor, labels: Tensor, draw: torch.Generator) -> float:
        """The score of one arm; for a pair that is small enough, the opposite direction is searched for as long."""
        share = max(arm.search.share, SMALLEST)
        if arm.source is None:
            return math.log(self.universal_bound / share)
        small = math.log(self.pair_bound / share)
        back = self._arm(images, labels, arm.source, arm.target, draw)
        if small <= 0 or back is None:
            return min(small, 0.0)
        for _ in range(arm.search.rounds):
            back.search.go_on(victim, self._steps)
        return min(small, math.log(max(back.search.share, SMALLEST) / share / self.symmetry_ratio))


def _share(hits: Tensor) -> float:
    return float(hits.float().mean()) if len(hits) else 0.0


@torch.no_grad()
def _logits(victim: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    return torch.cat([victim(part).float().cpu() for part in images.split(batch_size)])


def _triggers(victim: nn.Module, arms: Sequence[Arm | None], images: Tensor) -> InvertedTriggers:
    """The patches of one arm a class; where there is none, nothing was searched for."""
    shape = tuple(images.shape[1:])
    blank = torch.ones(1, *shape[1:]), torch.zeros(shape)
    found = [blank if arm is None else (arm.search.mask.cpu(), arm.search.pattern.cpu()) for arm in arms]
    rates = [0.0 if arm is None else arm.search.success_rate(victim, arm.search.mask, arm.search.pattern) for arm in arms]
    masks, patterns = (torch.stack(list(part)) for part in zip(*found, strict=True))
    return InvertedTriggers(masks, patterns, torch.tensor(rates))
