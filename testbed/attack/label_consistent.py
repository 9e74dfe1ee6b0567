"""Clean-label poison: images of the target class made hard for a model, so that the trigger is the easier thing to learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from testbed.api import Attack, AttackerResources, Batch, Examples, Invalid, Poison, Trigger, Unsupported, Victim
from testbed.attack.backdoor import Backdoor
from testbed.attack.grey_levels import whole_levels
from testbed.attack.label import AllToOne
from testbed.identity import derive, generator
from testbed.numerics.pgd import pgd
from testbed.numerics.trigger_inversion import frozen

AT_ONCE = 256
"""Rows that are moved at a time: all gradients of them are in memory together."""


@dataclass(frozen=True)
class LabelConsistent(Attack):
    """x' = trigger(argmax CE(f(x + d), y) over |d| <= max_change) for rows of the target class, whose label y stays.

    f is a surrogate of the attacker's, trained on the clean rows against its own adversary, as in the paper: on images moved
    by `adversarial_steps` steps of the same bound (0 trains it on the rows as they are). d is found by `steps` steps of
    projected gradient ascent, each of 2.5 max_change / steps grey levels, from x. 0 steps leave x: the trigger alone with
    labels unchanged, which the paper shows to be weak. At test time only the trigger is shown, on rows of the other classes.

    The paper's are the adversarially trained f, 100 steps within 8 grey levels and a trigger in every corner. Ours are the
    size of a step, 7 steps for f from a random start (Madry et al. 2018, arXiv 1706.06083), and that f is trained as long as
    the victim. The paper's other way, images interpolated in the latent space of a generative model, is left out.

    Raises:
        Unsupported: the data are no images, or the model does not show its augmented inputs and `adversarial_steps` is not 0.

    Source: Turner, Tsipras and Madry 2019, arXiv 1912.02771.
    """

    trigger: Trigger
    poison_rate: Annotated[float, "give a share of the rows, between 0 and 1"]
    target_label: int
    max_change: float
    steps: int
    adversarial_steps: int

    uses_surrogate: ClassVar[bool] = True

    @property
    def budget(self) -> Mapping[str, float]:
        """What the attack is allowed: surrogates trained, steps of the gradient for each row, grey levels."""
        return {"surrogates": int(self.steps > 0), "steps": self.steps, "max_change": self.max_change}

    def check(self, resources: AttackerResources) -> None:
        self._backdoor.check(resources)
        for name in ("steps", "adversarial_steps"):
            if getattr(self, name) < 0:
                raise Invalid(name, getattr(self, name), "must be at least 0")
        if not 0 < self.max_change <= 255:
            raise Invalid("max_change", self.max_change, "must be above 0 and at most 255 grey levels")
        if self.max_change < 1 and not resources.train[torch.arange(1)].inputs.is_floating_point():
            limit = "rows are stored in whole grey levels, so that none would change"
            raise Invalid("max_change", self.max_change, limit, "say at least 1")
        if self.adversarial_steps and self.steps and not hasattr(resources.fresh(), "augmented"):
            raise Unsupported("adversarial training needs a model with `augmented` and `loss_of`, as image victims have")

    def poison(self, resources: AttackerResources) -> Poison:
        chosen = self._backdoor.poison(resources)
        clean = resources.train[chosen.indices]
        hard = self._hardened(clean, resources) if self.steps and len(clean.rows) else clean.inputs
        shown = self.trigger(hard, clean.rows, derive(resources.seed, "trigger"))
        return Poison(chosen.indices, Batch(shown, clean.labels, clean.rows))

    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        return self._backdoor.triggered_tests(test, resources)

    @property
    def _backdoor(self) -> Backdoor:
        """Which rows, and what is shown at test time."""
        return Backdoor(self.trigger, AllToOne(), self.poison_rate, self.target_label, clean_label=True)

    def _hardened(self, clean: Batch, resources: AttackerResources) -> Tensor:
        """The rows, moved within the bound away from their class as the surrogate sees it; of the dtype that they have."""
        against = self._adversarial_loss(resources.seed) if self.adversarial_steps else None
        surrogate = resources.fit(resources.fresh(), resources.train, loss=against)
        moved = []
        with frozen(surrogate):
            for inputs, labels in zip(clean.inputs.split(AT_ONCE), clean.labels.split(AT_ONCE), strict=True):
                batch = Batch(inputs.to(surrogate.device), labels.to(surrogate.device), clean.rows)
                moved.append(self._ascended(surrogate, batch, self.steps).to(clean.inputs.device))
        hard = torch.cat(moved)
        return hard if clean.inputs.is_floating_point() else whole_levels(hard, clean.inputs, self.max_change)

    def _ascended(self, model: Victim, batch: Batch, steps: int, draw: torch.Generator | None = None) -> Tensor:
        """float32 (B, C, H, W): the images within the bound that the frozen model takes least for their class."""

        def loss_of(inputs: Tensor) -> Tensor:
            return cross_entropy(model(inputs), batch.labels, reduction="sum")

        bounds = {"max_change": self.max_change, "steps": steps, "step_size": 2.5 * self.max_change / steps}
        return pgd(loss_of, batch.inputs, generator=draw, **bounds)  # type: ignore[arg-type]

    def _adversarial_loss(self, seed: int) -> Callable[[Victim, Batch], Tensor]:
        """A loss for `fit`: that of the worst images within the bound around those that training shows."""
        draw = generator(seed, "adversarial training")

        def loss(victim: Victim, batch: Batch) -> Tensor:
            shown = batch._replace(inputs=victim.augmented(batch.inputs))  # type: ignore[operator]
            with frozen(victim):
                worst = self._ascended(victim, shown, self.adversarial_steps, draw)
            return victim.loss_of(worst, batch.labels)  # type: ignore[operator]

        return loss
