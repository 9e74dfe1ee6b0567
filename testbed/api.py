"""The nouns of the testbed: all that the author of an attack, a defence or a detector has to read.

Images, text classifiers and chat models go through the same few nouns. A method subclasses one of them, declares its
parameters as dataclass fields, and is named by one YAML file; the pipelines decide what happens when.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from testbed.error import Diverged, Invalid, Unreadable, Unsupported, component  # noqa: F401
from testbed.rows import Batch, Examples, Poison, Splits  # noqa: F401
from testbed.task import ImageTask, Task  # noqa: F401


class Fit(Protocol):
    """Trains a copy; equal victims, rows and options are trained once. Raises `Diverged` where the loss is not finite."""

    def __call__(
        self,
        victim: Victim,
        examples: Examples,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        optimiser: Callable[..., torch.optim.Optimizer] | None = None,
        loss: Callable[[Victim, Batch], Tensor] | None = None,
        callbacks: Sequence[Any] = (),
    ) -> Victim: ...


@dataclass(frozen=True)
class AttackerResources:
    """What an attacker may use: the clean rows, other data, an untrained surrogate, training, randomness.

    `positions` (n,) tells one who controls training where its rows lie among those trained on. `defence` is set for an attack
    that is `adaptive`, `target` (a test row with its true answer) for one that is `targeted` at a 'row', `poison` for exams.
    """

    task: Task
    train: Examples
    fresh: Callable[[], Victim]
    fit: Fit
    seed: int
    auxiliary: Examples | None = None
    defence: Defence | None = None
    positions: Tensor | None = None
    poison: Poison | None = None
    target: Batch | None = None
    trained: Victim | None = None  # the victim as the attack wrapped it, for exams that it sets anew: {} until then will do


@dataclass(frozen=True)
class DefenderResources:
    """What a defender may use; `train` are the rows as received, `reference` the (base, aligned) pair of a chat model."""

    task: Task
    train: Examples
    reserve: Examples
    fresh: Callable[[], Victim]
    fit: Fit
    seed: int
    reference: tuple[Victim, Victim] | None = None


@dataclass(frozen=True)
class OracleResources(DefenderResources):
    """The answers as well, for controls that say `oracle` in their name: `poisoned` is bool (n,), one for each received row."""

    poisoned: Tensor | None = None


class Described:
    """A method's constructor only assigns, so that its parameters describe it (`record.describe` reads them)."""

    def check(self, resources: Any) -> None:
        """Before anything is trained, refuse what cannot work with this data and model: raises `Invalid` for a parameter,
        `Unsupported` where the method does not apply, which is recorded as a skipped run."""


class Attack(Described, ABC):
    """Changes training rows, and sets the exams that tell whether that worked."""

    uses_surrogate: ClassVar[bool] = False  # True for a poison crafted with `resources.fresh` or `fit`
    adaptive: ClassVar[bool] = False  # True for a poison made against `resources.defence`, which is then handed over
    targeted: ClassVar[str] = ""  # 'row' or 'pair': made for one test row or one pair of classes, and so judged over trials

    @abstractmethod
    def poison(self, resources: AttackerResources) -> Poison:
        """The rows that the attacker replaces or appends."""

    @abstractmethod
    def triggered_tests(self, test: Examples, resources: AttackerResources) -> dict[str, Poison]:
        """The attacker's exams: 'success' first, then near misses. A row whose true answer is the wanted one is left out.

        An attacker who controls training is asked once more after it, with `resources.trained`."""

    @property
    def controls_training(self) -> bool:
        """Whether the attacker trains the model, so that nobody else can act in its training."""
        return type(self).during_training is not Attack.during_training

    def during_training(self, victim: Victim, resources: AttackerResources) -> Victim:
        """Overridden by attacks that control training: wrap the victim (`Victim.bare` must undo it)."""
        return victim

    def tamper(self, victim: Victim, resources: AttackerResources) -> Victim:
        """Overridden by attacks that edit a released model without training it."""
        return victim


class Defence(Described):
    """Acts at any of five stages; the identity where it does not override one."""

    oracle: ClassVar[bool] = False

    def during_alignment(self, victim: Victim, resources: DefenderResources) -> Victim:
        """Change how a chat model is aligned, before any attack."""
        return victim

    def before_training(self, received: Examples, resources: DefenderResources) -> Examples:
        """Choose or change the rows that are trained on."""
        return received

    def during_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        """Wrap the untrained victim, so that its training is another one; one without gradients is not trained any more."""
        return victim

    def after_training(self, victim: Victim, resources: DefenderResources) -> Victim:
        """Repair a trained victim."""
        return victim

    def at_inference(self, victim: Victim, resources: DefenderResources) -> Victim:
        """Wrap a trained victim, so that it answers otherwise or not at all."""
        return victim

    def objective(self, victim: Victim, batch: Batch) -> Tensor | None:
        """What its repair minimises over clean rows, for adaptive attackers: a differentiable scalar, None if nothing."""
        return None


class Detector(Described, ABC):
    """Scores rows or queries: how suspicious is each? The framework compares, the method does not decide."""

    judges: ClassVar[frozenset[str]]  # of 'rows' (of the training data) and 'queries' (at inference)
    oracle: ClassVar[bool] = False

    @abstractmethod
    def score(self, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor:
        """float (n,), finite; higher is more suspicious."""

    def decide(self, scores: Tensor, examples: Examples, victim: Victim, resources: DefenderResources) -> Tensor | None:
        """bool (n,): the paper's own published rule; None where it has none."""
        return None

    def reserve_scores(self, victim: Victim, resources: DefenderResources) -> Tensor:
        """float (m,): what clean rows score, by which thresholds are set: those of the reserve. Overridden by detectors that
        compare rows with the reserve's own, so that each of these is judged as if it were not among them."""
        return self.score(resources.reserve, victim, resources)


class Inspection(NamedTuple):
    """What a model detector found: `scores` float (classes,) or (1,), higher is more suspicious; `flagged` are the classes that
    the paper's own rule calls targets; `triggers` are what was reconstructed, one a class; `absolute` are the scores before
    classes were compared within the model, where they were, so that a class can be compared with itself in clean models."""

    scores: Tensor
    flagged: tuple[int, ...]
    triggers: Any = None
    absolute: Tensor | None = None


class ModelDetector(Described, ABC):
    """Looks at a whole model: is it backdoored, and toward what?"""

    judges: ClassVar[frozenset[str]] = frozenset({"models"})
    oracle: ClassVar[bool] = False

    @abstractmethod
    def inspect(self, victim: Victim, resources: DefenderResources) -> Inspection:
        """Scores by class and the reconstructed triggers."""

    def decide(self, scores: Tensor) -> bool | None:
        """The paper's own rule for a model that has one score; None where it has none."""
        return None


class ChannelParameter(NamedTuple):
    """One parameter of a channel: slice `channel` of `getattr(module, name)` along `dim`."""

    module: nn.Module
    name: str
    dim: int


class Victim(Described, nn.Module, ABC):
    """A model under attack. It owns augmentation, normalisation and tokenising; callers hand it raw batches.

    An image victim also takes float32 images in 0..255: differentiable, and never augmented outside `loss`.
    """

    @abstractmethod
    def forward(self, inputs: Any) -> Tensor:
        """Logits float (B, K) for raw inputs, unaugmented."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The training loss of a raw batch, augmented while training: a scalar."""

    def answers(self, inputs: Any) -> Any:
        """The answer to each input: for classifiers int64 (B,); -1 where the victim refuses to answer."""
        return self(inputs).argmax(1)

    def correct(self, answers: Any, wanted: Any) -> Tensor:
        """bool (B,): is each answer the wanted one? A refused query is correct in no sense."""
        return answers == wanted

    def radius(self, inputs: Any) -> Tensor | None:
        """int64 (B,): how many training rows could be added or removed, and no answer would change; None: no guarantee."""
        return None

    def kinds(self, labels: Any) -> Tensor:
        """int64 (n,): the group of each label, where detectors compare like with like: for classifiers the label itself."""
        return labels

    @property
    @abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that `features` can read, from input to output; the last is 'penultimate'."""

    @abstractmethod
    def features(self, inputs: Any, layer: str) -> Tensor:
        """float (B, ...): the activations of a layer on raw inputs."""

    def observe(self, inputs: Any, layer: str) -> tuple[Tensor, Tensor]:
        """Activations of a layer and logits; a victim that can read both in one pass overrides this."""
        return self.features(inputs, layer), self(inputs)

    @property
    def groups(self) -> Mapping[str, tuple[ChannelParameter, ...]]:
        """By layer: the parameters which, zeroed together at one channel, silence that channel."""
        return {}

    def bare(self) -> Victim:
        """The victim without what an attacker wrapped around it: all that anybody else ever sees."""
        return self

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class Wrapper(Victim):
    """`victim` in every respect that a subclass does not override."""

    def __init__(self, victim: Victim) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, inputs: Any) -> Tensor:
        return self.victim(inputs)

    def loss(self, batch: Batch) -> Tensor:
        return self.victim.loss(batch)

    @property
    def layers(self) -> tuple[str, ...]:
        return self.victim.layers

    def features(self, inputs: Any, layer: str) -> Tensor:
        return self.victim.features(inputs, layer)


Trigger = Callable[[Any, Tensor, int], Any]
"""`trigger(inputs, rows, seed) -> inputs`: stamps a whole raw batch, leaves its argument as it was, keeps its dtype (uint8 is
rounded as a stored image would be). What is random depends on (seed, row), never on the batch."""
