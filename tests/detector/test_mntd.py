"""The defender's own backdoors and first weights by their definition, and meta-classifiers on models that differ plainly."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from testbed.api import ImageTask, Invalid, Unsupported
from testbed.detector.jumbo import Rows, drawn, reinitialised
from testbed.detector.mntd import MNTD, Judge
from testbed.identity import weights_digest
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.model.vit_small import ViTSmall

TASK = ImageTask("images", ("0", "1", "2"), shape=(1, 8, 8))
FEW = MNTD(benign_models=2, trojaned_models=2, shadow_epochs=1, queries=3, hidden=4, meta_epochs=30, restarts=1)


def _rows(count: int = 30, side: int = 8, channels: int = 1, *, floats: bool = False) -> Rows:
    images = torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(0))
    return Rows(images.float() if floats else images.to(torch.uint8), torch.arange(count) % 3)


@pytest.fixture(scope="module")
def resources(defender, rows):
    """Training only marks: a model of stamped rows has its last bias raised, as if it had learnt a backdoor."""
    clean = _rows()

    def fit(victim, examples, *, epochs):
        trained = copy.deepcopy(victim)
        with torch.no_grad():
            trained.net.linear.bias += 5.0 * (len(examples) > len(clean))
        return trained

    victim = ImageVictim(TASK, SmallCNN)
    given = defender(victim, rows(clean.inputs, clean.labels))
    return replace(given, task=TASK, fit=fit, fresh=lambda: copy.deepcopy(victim))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), side=st.integers(2, 40), channels=st.sampled_from([1, 3]), floats=st.booleans())
def test_a_drawn_backdoor_appends_stamped_copies_with_one_label(seed, side, channels, floats):
    clean = _rows(20, side, channels, floats=floats)
    found = drawn(clean, 3, torch.Generator().manual_seed(seed))
    again = drawn(clean, 3, torch.Generator().manual_seed(seed))
    assert torch.equal(found.inputs, again.inputs) and found.inputs.dtype == clean.inputs.dtype
    assert torch.equal(found.inputs[:20], clean.inputs) and torch.equal(found.labels[:20], clean.labels)
    stamped = found.inputs[20:].float()
    assert 1 <= len(stamped) <= 10 and len(found.labels[20:].unique()) == 1
    assert stamped.min() >= 0 and stamped.max() <= 255
    touched = torch.stack([(each - clean.inputs.float()).abs().flatten(1).sum(1).min() for each in stamped])
    whole = 0.2 * 255 * channels * side**2  # noise all over moves a pixel by a fifth at most
    patch = 255 * channels * (5 * max(1.0, side / 32) + 1) ** 2
    assert (touched <= max(whole, patch)).all()


@pytest.mark.parametrize("network", [SmallCNN, lambda *a: ViTSmall(*a, depth=1, width=12, heads=2)])
def test_first_weights_depend_on_the_seed_and_not_on_the_victim(network):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = ImageVictim(TASK, network)
        torch.manual_seed(1)
        other = ImageVictim(TASK, network)
    state, before = torch.get_rng_state(), weights_digest(one)
    first, same, second = reinitialised(one, 5), reinitialised(one, 5), reinitialised(one, 6)
    assert torch.equal(torch.get_rng_state(), state) and weights_digest(one) == before
    assert weights_digest(first) == weights_digest(same)
    spread = [name for name, value in one.named_parameters() if value.numel() > 1 and value.std() > 0]
    pairs = dict(first.named_parameters()), dict(second.named_parameters()), dict(one.named_parameters())
    assert all(not torch.equal(pairs[0][name], pairs[1][name]) for name in spread)
    assert all(not torch.equal(pairs[0][name], pairs[2][name]) for name in spread)
    if network is SmallCNN:  # every module of it can reset itself: nothing of the victim's own weights is left
        assert weights_digest(reinitialised(other, 5)) == weights_digest(first)


def test_models_that_differ_as_the_shadow_models_do_are_told_apart(resources):
    shadows = FEW.shadows(resources)
    assert [kind for _, kind in shadows] == [False, True, False, True]
    assert [getattr(shadow, "marked_backdoored", False) for shadow, _ in shadows] == [False, True, False, True]
    assert len({weights_digest(shadow) for shadow, _ in shadows}) == 4
    fooled = resources.fit(resources.fresh(), range(31), epochs=1)
    before = weights_digest(fooled)
    high, low = (FEW.inspect(model, resources) for model in (fooled, resources.fresh()))
    assert high.scores.shape == (1,) and high.flagged == () and weights_digest(fooled) == before
    assert FEW.decide(high.scores) and not FEW.decide(low.scores)


def test_of_the_drawn_backdoors_every_part_is_random():
    """Of 80 draws a fifth cover the image (16), a quarter of the patches (16) replace what was there; all targets occur."""
    clean = Rows((20 * torch.arange(12) + 10).view(12, 1, 1, 1).expand(12, 1, 8, 8).to(torch.uint8), torch.arange(12) % 3)
    whole, opaque, targets = 0, 0, set()
    for seed in range(80):
        found = drawn(clean, 3, torch.Generator().manual_seed(seed))
        stamped = found.inputs[12:].float().flatten(1)
        targets |= set(found.labels[12:].tolist())
        touched = (stamped != stamped.mode(1, keepdim=True).values).sum(1)
        whole += int(touched.max() > 36)  # a patch has 5 x 5 pixels at most
        opaque += len(stamped) > 1 and bool((stamped.std(0) == 0).any())
    assert targets == {0, 1, 2} and 6 <= whole <= 28 and 5 <= opaque <= 28


def test_queries_are_tuned_with_the_meta_classifier(resources):
    judge = FEW._judge(FEW.shadows(resources), TASK, 7)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        start = Judge(FEW.queries, TASK, FEW.hidden)
    assert (judge.free - start.free).abs().amax() > 0.01 and (judge.inner.weight - start.inner.weight).abs().amax() > 1e-3


def test_a_judge_by_hand():
    judge = Judge(2, TASK, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    hidden = torch.relu(judge.inner.weight @ model(255 * judge.free.sigmoid()).flatten() + judge.inner.bias)
    torch.testing.assert_close(judge(model), judge.outer.weight[0] @ hidden + judge.outer.bias[0])


@pytest.mark.parametrize("name", ["benign_models", "trojaned_models", "shadow_epochs", "queries", "meta_learning_rate"])
def test_what_cannot_work_is_refused(name, resources, rows, defender):
    MNTD().check(resources)
    with pytest.raises(Invalid, match=name):
        MNTD(**{name: 0}).check(resources)
    with pytest.raises(Invalid, match="reserve"):
        MNTD().check(replace(resources, reserve=rows(torch.zeros(1, 1, 8, 8))))
    with pytest.raises(Unsupported, match="images"):
        MNTD().check(defender(resources.fresh(), resources.reserve, kind="text"))
