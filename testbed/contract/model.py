"""What a model promises."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from testbed.api import Batch, Examples, Victim
from testbed.contract.promise import Promise, Results, Trial, require
from testbed.contract.watch import Watch, randomness, said
from testbed.features import evaluating
from testbed.identity import generator, weights_digest

ROWS = 4
ROUNDING = 1e-4
"""Of logits and features, between batches of different sizes and types."""

STIR = 0.02
"""Standard deviation of what is added to untrained weights: a head that begins at zero would say the same of everything."""


def act(trial: Trial, rows: Examples, watch: Watch) -> Results:
    """An untrained victim, its weights stirred, its features and its loss."""
    victim, batch = _stirred(trial.world.fresh(), trial.world.seed), rows[torch.arange(ROWS)]
    with watch.model(victim), torch.no_grad(), evaluating(victim):
        features, logits = victim.observe(batch.inputs, victim.layers[-1])
        loss = victim.loss(batch)
    return {"victim": victim, "features": features, "logits": logits, "loss": loss}


def accepts(trial: Trial, model: Any) -> None:
    """Its constructor's own checks."""
    with torch.random.fork_rng():
        model(trial.world.data.task)


def gives_logits(trial: Trial) -> None:
    """Finite logits (B, classes), or of a chat model (B, V); uint8 and float32 images give the same ones."""
    victim, batch, stored = _victim(trial), _batch(trial), trial.first.results["logits"]
    classes = len(trial.world.data.task.classes) if isinstance(batch.labels, Tensor) else stored.shape[-1]
    require(stored.shape == (ROWS, classes), f"logits of shape {tuple(stored.shape)}, not (B, {classes})")
    require(bool(stored.isfinite().all()), "they are not finite")
    if isinstance(batch.inputs, Tensor):
        apart = float((stored - _logits(victim, batch.inputs.float())).abs().max())
        require(apart <= ROUNDING, f"they lie {apart:.3g} apart")


def answers_rows_apart(trial: Trial) -> None:
    """In evaluation mode the answer to a row is its own, and the same whenever it is asked."""
    victim, batch = _victim(trial), _batch(trial)
    whole, again, part = (_logits(victim, inputs) for inputs in (batch.inputs, batch.inputs, batch.inputs[:2]))
    require(torch.equal(whole, again), "other logits the second time")
    require(torch.allclose(whole[:2], part, atol=ROUNDING), "the other rows of the batch change a row's logits")
    together, alone = (said(victim, inputs)[0][:2] for inputs in (batch.inputs, batch.inputs[:2]))
    require(_spoken(together) == _spoken(alone), "the other rows of the batch change a row's answer")


def shows_its_layers(trial: Trial) -> None:
    """Layers end in 'penultimate', have one row of features an input, and `observe` agrees with `features` and logits."""
    victim, batch, results = _victim(trial), _batch(trial), trial.first.results
    require(bool(victim.layers) and victim.layers[-1] == "penultimate", f"the layers are {victim.layers}")
    require(len(set(victim.layers)) == len(victim.layers), f"a name stands for two layers: {victim.layers}")
    require(torch.allclose(results["logits"], _logits(victim, batch.inputs), atol=ROUNDING), "observe gives other logits")
    for layer in victim.layers:
        with torch.no_grad(), evaluating(victim):
            read = victim.features(batch.inputs[:2], layer)
        require(len(read) == 2 and read.is_floating_point(), f"{layer}: {read.dtype} {tuple(read.shape)} for 2 rows")
    require(torch.allclose(results["features"][:2], read, atol=ROUNDING), "observe gives other features")


def travels(trial: Trial) -> None:
    """A copy, and another victim that is given its state, are the same model."""
    victim, batch = _victim(trial), _batch(trial)
    other = trial.world.fresh(trial.world.seed + 1)
    other.load_state_dict(victim.state_dict())
    for name, same in (("a deep copy", copy.deepcopy(victim)), ("a victim given its state", other)):
        require(weights_digest(same) == weights_digest(victim), f"{name} has other weights")
        require(torch.equal(_logits(same, batch.inputs), trial.first.results["logits"]), f"{name} gives other logits")


def lets_gradients_through(trial: Trial) -> None:
    """The gradient of the logits by float32 images, or the loss's by the weights that learn, is finite and not zero."""
    victim, batch = _victim(trial).eval(), _batch(trial)
    if isinstance(batch.inputs, Tensor):
        images = batch.inputs.float().requires_grad_()
        found = torch.autograd.grad(victim(images).square().sum(), images, allow_unused=True)
    else:
        learning = [weight for weight in victim.parameters() if weight.requires_grad]
        found = torch.autograd.grad(victim.loss(batch), learning, allow_unused=True)
    gradients = [gradient for gradient in found if gradient is not None]
    finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
    require(finite and any(bool(gradient.any()) for gradient in gradients), "it is cut off, zero or not finite")


def learns_repeatably(trial: Trial) -> None:
    """In training mode the loss is one finite number with gradients, and what is random in it follows the global state."""
    batch, losses = _batch(trial), []
    for _ in range(2):
        victim = _victim(trial).train()
        with randomness(trial.world.seed):
            loss = victim.loss(batch)
        require(loss.dim() == 0 and bool(loss.isfinite()), f"the loss is {loss.detach()}")
        loss.backward()
        require(any(value.grad is not None for value in victim.parameters()), "no parameter receives a gradient")
        losses.append(float(loss.detach()))
    require(losses[0] == losses[1], f"{losses[0]} and {losses[1]} from the same random state")


PROMISES = (
    Promise("its logits are finite, and the same for stored and for float32 images", gives_logits),
    Promise("in evaluation mode a row's answer is its own, and always the same", answers_rows_apart),
    Promise("its layers can be read, from the input to 'penultimate'", shows_its_layers),
    Promise("a copy, or a victim that is given its state, is the same model", travels),
    Promise("the gradient reaches the image, or where words are read the weights", lets_gradients_through),
    Promise("its training loss is a finite number, and repeatable from the same random state", learns_repeatably),
)


@torch.no_grad()
def _stirred(victim: Victim, seed: int) -> Victim:
    draws = generator(seed, "stirring")
    for value in victim.parameters():
        value.add_(torch.randn(value.shape, generator=draws).to(value), alpha=STIR)
    return victim


def _spoken(answers: Any) -> list[Any]:
    """Classes, or the words of replies: how near a reply was to a refusal is a number, and rounded."""
    return answers.tolist() if isinstance(answers, Tensor) else [reply.text for reply in answers]


@torch.no_grad()
def _logits(victim: Victim, inputs: Any) -> Tensor:
    with evaluating(victim):
        return victim(inputs)


def _victim(trial: Trial) -> Victim:
    return copy.deepcopy(trial.first.results["victim"])


def _batch(trial: Trial) -> Batch:
    return trial.rows[torch.arange(ROWS)]
