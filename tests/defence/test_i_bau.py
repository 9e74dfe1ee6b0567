"""Hypergradients against a quadratic problem solved by hand and against an unrolled solver; the rounds of I-BAU."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from testbed.api import Batch, Invalid, Unsupported
from testbed.data.memory import MemoryExamples
from testbed.defence.i_bau import IBAU, misled, shuffled
from testbed.identity import weights_digest
from testbed.model.image import ImageVictim
from testbed.numerics.hypergradient import hypergradient
from tests.defence.small_images import RESOURCES, TEXTS, TRANSFORMER, images, trained, untrained

METHOD = IBAU(2, 16, 10.0, 0.001, 10.0, 0.01, 3, 0.1, partial(torch.optim.Adam, lr=1e-4))


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, B, c and theta of g = d'Ad/2 - d'B theta and h = |d - c|^2/2 + |theta|^2/2."""
    draw = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=draw, dtype=torch.float64)
    matrix = root @ root.T / 4 + torch.eye(4, dtype=torch.float64)
    b = torch.randn(4, 3, generator=draw, dtype=torch.float64)
    c = torch.randn(4, generator=draw, dtype=torch.float64)
    return matrix, b, c, torch.randn(3, generator=draw, dtype=torch.float64, requires_grad=True)


def test_of_a_quadratic_problem_the_hypergradient_is_the_one_in_closed_form() -> None:
    a, b, c, theta = problem()
    solution = torch.linalg.solve(a, b @ theta)

    def outer(d: Tensor) -> Tensor:
        return (d - c).square().sum() / 2 + theta.square().sum() / 2

    def step(d: Tensor) -> Tensor:
        return d - 0.3 * (a @ d - b @ theta)

    closed = theta + b.T @ torch.linalg.solve(a.T, solution - c)
    many = hypergradient(outer, step, solution.detach(), [theta], iterations=200)[0]
    assert torch.allclose(many, closed.detach(), rtol=1e-9)
    for count in (1, 5):  # K iterations are the gradient through the last K steps of the solver
        d = solution.detach()
        for _ in range(count):
            d = step(d)
        unrolled = torch.autograd.grad(outer(d), theta)[0]
        found = hypergradient(outer, step, solution.detach(), [theta], iterations=count)[0]
        assert torch.allclose(found, unrolled, rtol=1e-9) and not torch.allclose(found, closed, rtol=1e-3)


def test_of_a_network_it_is_the_gradient_through_the_last_step() -> None:
    victim, batch = untrained().eval().double(), images(6, 4)[torch.arange(6)]
    worst = torch.zeros(1, 16, 16, dtype=torch.float64)
    weight = victim.net.linear.weight  # type: ignore[union-attr]

    def step(d: Tensor) -> Tensor:
        return d - 0.1 * torch.autograd.grad(METHOD._inner(victim, batch, d), d, create_graph=True)[0]

    found = hypergradient(lambda d: misled(victim, batch, d), step, worst, [weight], iterations=1)[0]
    start = worst.requires_grad_()
    # The point that the solver ends at stays the given one: only the derivative goes through the step.
    moved = step(start)
    unrolled = torch.autograd.grad(misled(victim, batch, start + (moved - moved.detach())), weight)[0]
    assert torch.allclose(found, unrolled, rtol=1e-6)


def test_of_a_logistic_regression_the_step_is_the_one_written_out() -> None:
    victim = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    a, x, d, penalty, size = 0.01, 60.0, 0.3, 2.0, 0.1
    with torch.no_grad():
        victim[1].weight.copy_(torch.tensor([[0.0], [a]], dtype=torch.float64))
    batch = Batch(torch.full((2, 1, 1, 1), x), torch.ones(2, dtype=torch.int64), torch.arange(2))
    method = replace(METHOD, penalty=penalty, step_size=size, fixed_point_iterations=2)
    worst = torch.full((1, 1, 1), d, dtype=torch.float64)
    method._unlearn(victim, batch, worst, torch.tensor([True, False]))  # type: ignore[arg-type]
    # CE = log(1 + exp(-a u)) with u = x + 255 d. The inner problem sees both images moved, the outer one half of them.
    u = x + 255 * d
    wrong, plain = (1 / (1 + torch.tensor(a * seen, dtype=torch.float64).exp()) for seen in (u, x))
    bend = wrong * (1 - wrong)
    pull = -255 * a * wrong / 2
    jacobian = 1 - size * (2 * penalty - (255 * a) ** 2 * bend)
    through = -size * 255 * (wrong - a * u * bend)  # dPhi/da
    expected = -(u * wrong + x * plain) / 2 + through * (1 + jacobian) * pull
    assert torch.allclose(victim[1].weight.grad.flatten(), torch.stack([-expected, expected]), rtol=1e-9)  # type: ignore[union-attr]


def test_the_perturbation_misleads_and_stays_in_its_ball() -> None:
    victim = trained(untrained(), images(90, 3), epochs=3).eval()
    parts = shuffled(RESOURCES.reserve, 16, 0, victim.device)
    assert sorted(torch.cat([part.rows for part in parts]).tolist()) == list(range(30))
    worst = METHOD._worst(victim, parts)
    assert worst.norm() <= 10 * (256 / 3072) ** 0.5 + 1e-4
    clean, moved = (sum(float(misled(victim, part, d).detach()) for part in parts) for d in (0 * worst, worst))
    assert moved > 3 * clean  # measured: .039 and .387


def test_rounds_change_a_copy_and_repeat() -> None:
    victim = trained(untrained(), images(90, 3))
    before, statistics = weights_digest(victim), {n: v.clone() for n, v in victim.state_dict().items() if "running" in n}
    one, other = (METHOD.after_training(victim, RESOURCES) for _ in range(2))
    assert weights_digest(one) == weights_digest(other) != before == weights_digest(victim)
    assert all(torch.equal(one.state_dict()[name], value) for name, value in statistics.items())
    assert [int(METHOD._carriers(count, torch.Generator()).sum()) for count in (1, 99, 200)] == [1, 1, 2]


def test_a_transformer_can_be_differentiated_twice() -> None:
    larger = MemoryExamples(images(8, 1).inputs.repeat(1, 1, 2, 2), images(8, 1).labels)
    victim = TRANSFORMER.fresh()
    cleaned = replace(METHOD, rounds=1).after_training(victim, replace(TRANSFORMER, reserve=larger))
    assert weights_digest(cleaned) != weights_digest(victim)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(Unsupported, match="needs images"):
        METHOD.check(TEXTS)
    for wrong in ({"rounds": 0}, {"penalty": -1.0}, {"perturbed_share": 0.0}, {"radius": float("nan")}, {"step_size": 0.0}):
        with pytest.raises(Invalid, match=next(iter(wrong))):
            replace(METHOD, **wrong).check(RESOURCES)


def test_a_model_without_second_derivatives_is_unsupported_before_it_is_trained() -> None:
    class Hard(nn.Module):
        def __init__(self, *_: int) -> None:
            super().__init__()
            self.stage, self.linear = nn.Hardsigmoid(), nn.Linear(256, 3)

        def forward(self, given: Tensor) -> Tensor:
            return self.linear(self.stage(given).flatten(1))

    victim = ImageVictim(untrained().task, Hard)
    with pytest.raises(Unsupported, match="differentiated twice"):
        METHOD._try(victim, images(6, 4))
    METHOD._try(untrained(), images(6, 4))
