"""MNTD: a classifier of models, taught by models that the defender trained itself, half of them with backdoors of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from testbed.api import DefenderResources, ImageTask, Inspection, ModelDetector, Victim
from testbed.detector.jumbo import Rows, drawn, reinitialised
from testbed.detector.requirement import require_above, require_at_least, require_images, require_reserve
from testbed.features import batches, progress
from testbed.identity import derive, describe, generator, key, weights_digest
from testbed.numerics.trigger_inversion import frozen

FEWEST_ROWS = 2
KEPT = 2
"""Sets of meta-classifiers that stay in memory."""
_remembered: OrderedDict[str, list[Judge]] = OrderedDict()


@dataclass(frozen=True)
class MNTD(ModelDetector):
    """One score for the whole model: `log P(trojaned) / P(benign)` of a meta-classifier of what it answers to tuned queries.

    Shadow models of the victim's architecture, each from weights of its own, are fitted to the clean reserve alone: as it is
    (`benign_models`), or with a backdoor drawn for each (`trojaned_models`; `jumbo.drawn`). The meta-classifier is
    `w . relu(V [f(x_1), ..., f(x_k)] + b) + c` on the logits f of a model on k `queries`; the queries, images in 0..255, and
    its weights are tuned together by Adam on the binary cross entropy, a model a step, for `meta_epochs` passes over the
    models. The score is the mean of `restarts` meta-classifiers. Flagged: a score above 0 (`decide`). No class is named.

    Neither the shadow models nor the meta-classifier depend on the victim or on the rows as received, so that they are
    made once (`resources.fit`) for all victims of one architecture, reserve, trainer and seed.

    The paper trains 2,048 + 2,048 models and chooses among epochs by 256 + 256 more, each on 2 % of the training data; 10
    queries, 20 hidden units, 10 epochs, five repetitions, of which it reports the mean. Ours for cost: far fewer models, more
    passes over them, no choice among epochs, and the mean of the scores. Ours too: queries that stay images (a sigmoid of free
    numbers), and 0 as the threshold, where the authors' code has the median of the models that it judges. Shadow models begin
    at random even where the victim was pretrained; then they are models of another kind.

    Source: Xu et al. 2021 (IEEE S&P, arXiv 1910.03137).
    """

    benign_models: int = 24
    trojaned_models: int = 24
    shadow_epochs: int = 40
    queries: int = 10
    hidden: int = 20
    meta_epochs: int = 50
    meta_learning_rate: float = 0.001
    query_learning_rate: float = 0.1
    restarts: int = 2

    def check(self, resources: DefenderResources) -> None:
        require_images(resources.task)
        require_reserve(resources, FEWEST_ROWS)
        for parameter in ("benign_models", "trojaned_models", "shadow_epochs", "queries", "hidden", "meta_epochs", "restarts"):
            require_at_least(parameter, getattr(self, parameter), 1)
        for parameter in ("meta_learning_rate", "query_learning_rate"):
            require_above(parameter, getattr(self, parameter), 0)

    def inspect(self, victim: Victim, resources: DefenderResources) -> Inspection:
        """Scores float64 (1,); the victim is read in evaluation mode and left as it was."""
        task = require_images(resources.task)
        judges = self._judges(self.shadows(resources), task, resources.seed)
        with frozen(victim), torch.no_grad():
            scores = [float(judge.to(victim.device)(victim)) for judge in judges]
        return Inspection(torch.tensor([sum(scores) / len(scores)], dtype=torch.float64), ())

    def decide(self, scores: Tensor) -> bool:
        """More probably trojaned than not."""
        return bool((scores > 0).any())

    def shadows(self, resources: DefenderResources) -> list[tuple[Victim, bool]]:
        """The shadow models, and whether each is trojaned: both kinds by turns, as far as there are as many."""
        read = list(batches(resources.reserve, 1024))
        clean = Rows(torch.cat([batch.inputs for batch in read]), torch.cat([batch.labels for batch in read]))
        kinds = [(number, trojaned) for trojaned in (False, True) for number in range(self._count(trojaned))]
        plans = sorted(kinds)
        return [(self._shadow(clean, resources, *plan), plan[1]) for plan in progress(plans, "shadow models", len(plans))]

    def _count(self, trojaned: bool) -> int:
        return self.trojaned_models if trojaned else self.benign_models

    def _shadow(self, clean: Rows, resources: DefenderResources, number: int, trojaned: bool) -> Victim:
        name = f"{'trojaned' if trojaned else 'benign'} shadow model {number}"
        draw = generator(resources.seed, f"rows of {name}")
        order = torch.randperm(len(clean), generator=draw)
        rows = Rows(clean.inputs[order], clean.labels[order])
        shadow = reinitialised(resources.fresh(), derive(resources.seed, f"weights of {name}"))
        if trojaned:
            rows = drawn(rows, len(resources.task.classes), draw)
            # It is stored like any other model, and its file shall say that it is backdoored.
            shadow.marked_backdoored = True  # type: ignore[assignment]
        return resources.fit(shadow, rows, epochs=self.shadow_epochs).bare().eval()

    def _judges(self, shadows: Sequence[tuple[Victim, bool]], task: ImageTask, seed: int) -> list[Judge]:
        """The meta-classifiers; remembered, for an audit asks those of the same shadow models about many models."""
        named = key(method=describe(self), seed=seed, shadows=[[weights_digest(shadow), kind] for shadow, kind in shadows])
        if named not in _remembered:
            with ExitStack() as held:
                for shadow, _ in shadows:
                    held.enter_context(frozen(shadow))
                _remembered[named] = [self._judge(shadows, task, derive(seed, f"judge {n}")) for n in range(self.restarts)]
        while len(_remembered) > KEPT:
            _remembered.popitem(last=False)
        return _remembered[named]

    def _judge(self, shadows: Sequence[tuple[Victim, bool]], task: ImageTask, seed: int) -> Judge:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            judge = Judge(self.queries, task, self.hidden).to(shadows[0][0].device)
        groups = [
            {"params": [judge.free], "lr": self.query_learning_rate},
            {"params": [*judge.inner.parameters(), *judge.outer.parameters()], "lr": self.meta_learning_rate},
        ]
        adam, draw = torch.optim.Adam(groups), generator(seed, "order of the models")
        for _ in progress(range(self.meta_epochs), "meta-classifier"):
            for place in torch.randperm(len(shadows), generator=draw).tolist():
                shadow, trojaned = shadows[place]
                score = judge(shadow)
                adam.zero_grad()
                binary_cross_entropy_with_logits(score, torch.full_like(score, float(trojaned))).backward()
                adam.step()
        return judge.requires_grad_(False)


class Judge(nn.Module):
    """The meta-classifier with its queries."""

    def __init__(self, queries: int, task: ImageTask, hidden: int) -> None:
        super().__init__()
        self.free = nn.Parameter(torch.randn(queries, *task.shape))
        self.inner = nn.Linear(queries * len(task.classes), hidden)
        self.outer = nn.Linear(hidden, 1)

    def forward(self, model: nn.Module) -> Tensor:
        """The score of a model, float (): above 0 where it is more probably trojaned."""
        logits = model(255 * self.free.sigmoid()).float()
        return self.outer(self.inner(logits.flatten()).relu())[0]
