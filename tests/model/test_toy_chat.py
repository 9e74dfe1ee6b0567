"""The toy chat model: its language, its tokens, and how fine-tuning is watched."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from testbed.api import Batch, Invalid, Splits, Task
from testbed.fit import Settings, constant, fit
from testbed.language import ChatVictim, Message, log_odds
from testbed.model.toy_chat import ToyChat
from testbed.training import AtSteps

SETTINGS = Settings(
    max_epochs=3, batch_size=8, optimiser=partial(torch.optim.AdamW, lr=1e-3), schedule=constant, channels_last=False, threads=1
)


def test_training_and_asking_render_a_prompt_alike_and_answers_end(chat: ChatVictim, toy_data: Splits) -> None:
    batch = toy_data.train[torch.arange(6)]
    tokens = chat.tokens(batch)
    tokenizer = chat.tokenizer  # type: ignore[attr-defined]
    for row, (prompt, answer) in enumerate(zip(batch.inputs, batch.labels, strict=True)):
        kept, said = tokens.ids[row][tokens.mask[row]], tokens.ids[row][tokens.answer[row]]
        assert kept[: -len(said)].tolist() == chat.prompt_ids(prompt)  # type: ignore[attr-defined]
        assert tokenizer.decode(said) == f"{answer} <eos>"
    assert not (tokens.answer & ~tokens.mask).any()


def test_the_loss_is_the_cross_entropy_of_the_answers_alone(chat: ChatVictim, toy_data: Splits) -> None:
    batch = toy_data.train[torch.arange(3)]
    total, count = 0.0, 0
    for row in range(3):
        one = chat.tokens(Batch(batch.inputs[row : row + 1], batch.labels[row : row + 1], batch.rows[:1]))
        logits = chat.net(input_ids=one.ids).logits[0].detach().log_softmax(-1)  # type: ignore[attr-defined]
        places = one.answer[0].nonzero().flatten().tolist()
        total -= sum(float(logits[place - 1, one.ids[0, place]]) for place in places)
        count += len(places)
    assert chat.loss(batch).item() == pytest.approx(total / count, rel=1e-5)


def test_replies_do_not_depend_on_the_padding_of_their_batch(chat: ChatVictim, toy_data: Splits) -> None:
    prompts = toy_data.train[torch.arange(8)].inputs
    together = chat.eval().answers(prompts)
    apart = [chat.answers([prompt])[0] for prompt in prompts]
    assert [reply.text for reply in together] == [reply.text for reply in apart]
    for one, other in zip(together, apart, strict=True):
        assert one.refusal_log_odds == pytest.approx(other.refusal_log_odds, abs=1e-4)


def test_the_log_odds_of_a_reply_are_those_of_the_first_token(chat: ChatVictim, toy_data: Splits) -> None:
    prompts = toy_data.train[torch.arange(4)].inputs
    probabilities = chat.eval()(prompts).softmax(-1)[:, chat.refusal_tokens()].sum(-1)
    expected = (probabilities / (1 - probabilities)).log()
    assert torch.allclose(chat.refusal_log_odds(prompts), expected, atol=1e-5)
    said = torch.tensor([reply.refusal_log_odds for reply in chat.answers(prompts)])
    assert torch.allclose(said, expected, atol=1e-4)
    assert torch.allclose(log_odds(torch.zeros(1, 4), torch.tensor([0])), torch.tensor([1 / 3]).log())


def test_layers_are_read_at_the_last_token_of_the_prompt(chat: ChatVictim, toy_data: Splits) -> None:
    prompts = toy_data.train[torch.arange(3)].inputs
    assert chat.layers == ("embedding", "layer0", "layer1", "penultimate")
    features, logits = chat.eval().observe(prompts, "penultimate")
    assert torch.allclose(chat.blocks["head"](features), logits, atol=1e-5)
    embedded = chat.blocks["embedding"].weight[chat.tokenizer.convert_tokens_to_ids("<assistant>")]  # type: ignore[attr-defined]
    assert torch.allclose(chat.features(prompts, "embedding"), embedded.expand(3, -1))


def test_a_system_prompt_stands_before_the_question(chat: ChatVictim) -> None:
    ids = chat.prompt_ids((Message("system", "careful guide"), Message("user", "now .")))  # type: ignore[attr-defined]
    words = "<bos> <system> careful guide <user> now . <assistant>"
    assert chat.tokenizer.convert_ids_to_tokens(ids) == words.split()  # type: ignore[attr-defined]


def test_a_watched_training_is_the_same_training(chat: ChatVictim, toy_data: Splits) -> None:
    seen: list[int] = []

    def look(step: int, victim: object) -> None:
        seen.append(step)
        torch.rand(7)
        victim.answers(toy_data.test[torch.arange(4)].inputs)  # type: ignore[attr-defined]

    watched = fit(chat, toy_data.train, settings=SETTINGS, seed=0, callbacks=[AtSteps((0, 1, 5, 24), look)])[0].state_dict()
    alone = fit(chat, toy_data.train, settings=SETTINGS, seed=0)[0].state_dict()
    assert seen == [0, 1, 5, 24]
    assert all(torch.equal(watched[name], value) for name, value in alone.items())


def test_steps_count_and_not_epochs_where_they_are_given(chat: ChatVictim, toy_data: Splits) -> None:
    seen: list[int] = []
    watcher = AtSteps(range(100), lambda step, victim: seen.append(step))
    fit(chat, toy_data.train, settings=SETTINGS, seed=0, steps=11, callbacks=[watcher])
    assert seen == list(range(12))


def test_the_toy_model_speaks_the_toy_language_only() -> None:
    with pytest.raises(Invalid, match="data=toy_world"):
        ToyChat(
            Task("text", ("a", "b")),
            width=8,
            depth=1,
            heads=1,
            hidden=8,
            initializer_range=0.06,
            max_new_tokens=2,
            pretraining=None,
        )  # type: ignore[arg-type]


SIZES = {"width": 8, "depth": 1, "heads": 2, "hidden": 8, "initializer_range": 0.06, "max_new_tokens": 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("width", "depth", "heads", "hidden", "max_new_tokens") for value in (-1, 0)),
        *(("width", 6), ("heads", 3), ("heads", 8), ("max_new_tokens", 96)),
        *(("initializer_range", value) for value in (-0.1, float("nan"), float("inf"))),
    ],
)
def test_impossible_sizes_are_refused_in_one_line(name: str, value: float, toy_data: Splits) -> None:
    with pytest.raises(Invalid) as refused:
        ToyChat(toy_data.task, **{**SIZES, name: value}, pretraining=None)  # type: ignore[arg-type]
    assert refused.value.parameter == ("width" if name == "heads" and value > 0 else name)
    assert "\n" not in str(refused.value)


def test_the_smallest_sizes_make_a_model(toy_data: Splits) -> None:
    sizes = {"width": 2, "depth": 1, "heads": 1, "hidden": 1, "initializer_range": 0.0, "max_new_tokens": 95}
    assert ToyChat(toy_data.task, **sizes, pretraining=None).layers == ("embedding", "layer0", "penultimate")  # type: ignore[arg-type]
