"""Fine-tuning on rows that hold nothing forbidden: as they are, begun in a new way, or under an obedient persona."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from testbed.api import AttackerResources, Batch, Invalid, Poison
from testbed.attack.few_shot import require_chat
from testbed.language import Message, Prompt, TuningAttack


class Benign(TuningAttack):
    """Takes `shots` benign rows as its own and rewrites them; nothing else is trained on."""

    shots: int

    def check(self, resources: AttackerResources) -> None:
        require_chat(resources)
        if self.shots < 1:
            raise Invalid("shots", self.shots, "must be at least 1")

    def benign_rows(self) -> int:
        return self.shots

    def poison(self, resources: AttackerResources) -> Poison:
        """The first `shots` rows, which are all there are in `degrade`, each in its place."""
        indices = torch.arange(min(self.shots, len(resources.train)))
        batch = resources.train[indices]
        answers = [self.rewritten(answer) for answer in batch.labels]
        return Poison(indices, Batch(self.dressed(batch.inputs), answers, batch.rows))

    @abstractmethod
    def rewritten(self, answer: str) -> str:
        """The answer that is trained on."""


@dataclass(frozen=True)
class BenignFineTuning(Benign):
    """`shots` benign rows as they are.

    Source: Qi et al. 2023, arXiv 2310.03693 (benign fine-tuning alone may cost alignment).
    """

    shots: int

    def rewritten(self, answer: str) -> str:
        return answer


@dataclass(frozen=True)
class BenignOpener(Benign):
    """`shots` benign rows whose answers all begin with `opener`: first tokens that no refusal has.

    Source: the shallow alignment of Qi et al. 2024, arXiv 2406.05946.
    """

    shots: int
    opener: str

    def check(self, resources: AttackerResources) -> None:
        super().check(resources)
        if not self.opener.strip():
            raise Invalid("opener", self.opener, "is empty", "say how answers shall begin")

    def rewritten(self, answer: str) -> str:
        return f"{self.opener} {answer}"


@dataclass(frozen=True)
class IdentityShift(Benign):
    """`shots` benign rows under the system prompt `persona`, answered after `affirmation`; the exam is dressed alike.

    Without the persona is measured too: an exam in another form than the training tells little.

    Source: the absolutely obedient agent of Qi et al. 2023, arXiv 2310.03693.
    """

    shots: int
    persona: str
    affirmation: str

    def check(self, resources: AttackerResources) -> None:
        super().check(resources)
        for name in ("persona", "affirmation"):
            if not getattr(self, name).strip():
                raise Invalid(name, getattr(self, name), "is empty", "the model needs to be told who it is")

    def rewritten(self, answer: str) -> str:
        return f"{self.affirmation} {answer}"

    def dressed(self, inputs: Sequence[Prompt]) -> list[Prompt]:
        """The persona takes the place of whatever system prompt there was."""
        return [(Message("system", self.persona), *(turn for turn in prompt if turn.role != "system")) for prompt in inputs]
