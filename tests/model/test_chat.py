"""What every chat model of Hugging Face's kind shares: rendering, what does not fit, one prompt at a time or many."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from testbed.api import Batch, Examples, Invalid, Splits
from testbed.language import ChatVictim, Message, Prompt
from testbed.model import rendering
from testbed.model.rendering import Rendering, ends_of


def asked(text: str) -> Prompt:
    return (Message("user", text),)


def words(count: int) -> str:
    return " ".join(["now"] * count)


@pytest.fixture
def net(chat: ChatVictim) -> Any:
    """The untrained chat model, with a rendering that no other test sees."""
    found: Any = chat
    old = found.rendering
    found.rendering = Rendering(old.tokenizer, ends=old.ends, vocabulary=old.vocabulary, context=old.context, room=old.room)
    return found.eval()


def test_replies_together_are_those_of_one_prompt_after_the_other_without_a_cache(net: Any, toy_data: Splits) -> None:
    prompts = [*toy_data.test[torch.arange(5)].inputs, asked("now"), asked(words(30))]
    for prompt, reply in zip(prompts, net.answers(prompts), strict=True):
        ids = net.prompt_ids(prompt)
        for _ in range(net.max_new_tokens):
            ids = [*ids, int(net.net(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
        assert reply.text == net.rendering.said(ids[len(net.prompt_ids(prompt)) :])


def test_padding_changes_neither_logits_nor_losses_nor_features(net: Any, toy_data: Splits) -> None:
    batch = toy_data.train[torch.arange(6)]
    alone = [Batch([batch.inputs[row]], [batch.labels[row]], batch.rows[row : row + 1]) for row in range(6)]
    assert torch.allclose(net(batch.inputs), torch.cat([net(one.inputs) for one in alone]), atol=1e-5)
    features = torch.cat([net.features(one.inputs, "layer1") for one in alone])
    assert torch.allclose(net.features(batch.inputs, "layer1"), features, atol=1e-5)
    summed = net.token_losses(net.tokens(batch)).sum(1)
    assert torch.allclose(summed, torch.stack([net.token_losses(net.tokens(one)).sum() for one in alone]), atol=1e-4)


def test_a_prompt_without_words_is_named_by_its_row(net: Any) -> None:
    batch = Batch([asked("now"), asked("  ")], ["yes", "yes"], torch.tensor([4, 17]))
    with pytest.raises(Invalid, match=r"^data: row 17: the prompt is empty"):
        net.tokens(batch)
    with pytest.raises(Invalid, match="row 0: the prompt is empty"):
        net.answers([()])


def test_a_prompt_that_leaves_no_room_is_refused_by_its_row(net: Any, toy_data: Splits) -> None:
    most = 96 - net.max_new_tokens - 3  # <bos>, <user> and <assistant> stand about it
    assert len(net.prompt_ids(asked(words(most)))) == 96 - net.max_new_tokens
    with pytest.raises(Invalid, match=r"row 3: the prompt has 89 tokens, and 88 are left of 96 .*model.truncate=true"):
        net.check_rows(rows(["now", "now", "now", words(most + 1)]))
    with pytest.raises(Invalid, match="row 0: prompt and answer have 97 tokens, and the model reads 96"):
        net.tokens(Batch([asked(words(80))], [words(13)], torch.tensor([0])))
    net.check_rows(toy_data.train)


def rows(texts: list[str], answers: list[str] | None = None) -> Examples:
    from testbed.data.listed import Listed

    return Listed([asked(text) for text in texts], answers or ["yes"] * len(texts))


def test_what_is_too_long_is_cut_from_the_left_alike_in_training_and_asking(
    net: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    net.rendering.truncate = True
    prompt = (Message("system", "careful guide"), Message("user", f"where {words(200)} end"))
    ids = net.prompt_ids(prompt)
    shown = net.tokenizer.convert_ids_to_tokens(ids)
    assert len(ids) == 96 - net.max_new_tokens
    assert shown[:4] == ["<bos>", "<system>", "careful", "guide"] and shown[4] == "<user>" and "where" not in shown
    kept = net.tokens(Batch([prompt], ["yes"], torch.tensor([0])))
    assert kept.ids[0][~kept.answer[0]].tolist() == ids
    assert copy.deepcopy(net).truncated == 1
    net.prompt_ids(asked(words(101)))
    assert net.truncated == 2 and capsys.readouterr().err.count("model.truncate") == 1


def test_a_template_without_an_end_gets_one_and_one_with_more_is_cut_there(net: Any) -> None:
    tokenizer = copy.deepcopy(net.tokenizer)
    whole = tokenizer.chat_template
    expected = net.answer_ids(asked("now"), "yes")
    for template in (whole.replace(" <eos>", ""), whole.replace(" <eos>", " <eos> now now")):
        tokenizer.chat_template = template
        other = Rendering(tokenizer, ends=net.rendering.ends, vocabulary=999, context=96, room=8)
        assert other.answer(asked("now"), "yes") == expected


def test_a_template_that_cannot_serve_is_refused(net: Any) -> None:
    for template, limit in (
        (net.tokenizer.chat_template.replace("<assistant>", "<assistant> now"), "does not begin a finished conversation"),
        ("<bos> {% for message in messages %}{% endfor %}", "leaves nothing of the answer"),
        ("{{ raise_exception('no system turns') }}", "no system turns"),
        ("{{ 'a' + 1 }}", "TypeError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ 10.0 ** 400 }}", "OverflowError"),
        ("{{ '%(a)s' % {} }}", "KeyError"),
        ("{{ '{' % 'b' + '%d' | format('x') }}", "TypeError|ValueError"),
        ("{{ 'abc'.index('x') }}", "ValueError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ):
        tokenizer = copy.deepcopy(net.tokenizer)
        tokenizer.chat_template = template
        other = Rendering(tokenizer, ends=net.rendering.ends, vocabulary=999, context=96, room=8)
        with pytest.raises(Invalid, match=limit) as refused:
            other.answer(asked("now"), "yes")
        assert refused.value.key == "model.chat_template" and "\n" not in str(refused.value)


def test_a_token_that_the_model_does_not_know_is_refused(net: Any) -> None:
    small = Rendering(net.tokenizer, ends=net.rendering.ends, vocabulary=7, context=96, room=8)
    with pytest.raises(Invalid, match="the model knows 7 tokens; the embedding is not resized"):
        small.prompt(asked("now"))


def test_no_more_tokens_are_remembered_than_allowed(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "REMEMBERED", 50)
    found = [net.prompt_ids(asked(words(count))) for count in range(1, 40)]
    assert sum(len(ids) for ids in net.rendering._memory.values()) <= 50
    assert found == [net.prompt_ids(asked(words(count))) for count in range(1, 40)]


def test_a_reply_ends_at_any_of_its_ends(net: Any) -> None:
    tokenizer = net.tokenizer
    assert ends_of(tokenizer, [5, 2], 5, None) == (tokenizer.eos_token_id, 5)
    ids = tokenizer("now now <system> now", add_special_tokens=False)["input_ids"]
    ends = (tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<system>"))
    assert Rendering(tokenizer, ends=ends, vocabulary=999, context=96, room=8).said(ids) == "now now"
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(Invalid, match="a token that ends a text"):
        ends_of(tokenizer)


def test_a_template_that_writes_before_every_reply_tells_no_refusal(net: Any) -> None:
    """Qwen3's writes an empty '<think>' before each; where it ends the prompt with it too, it does no harm."""
    old, expected, tokenizer = net.rendering, net.refusal_tokens(), copy.deepcopy(net.tokenizer)
    sizes = {"ends": old.ends, "vocabulary": old.vocabulary, "context": old.context, "room": old.room}
    before = "{% if message.role == 'assistant' %}<user> {% endif %}{{ message.content }}"
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ message.content }}", before)
    net.rendering = Rendering(tokenizer, **sizes)
    told = "^model.chat_template: it writes '<user>' before every reply.*writes nothing before the reply"
    for ask in (net.refusal_tokens, net.metadata, lambda: net.answers([asked("now")])):
        with pytest.raises(Invalid, match=told):
            ask()
    tokenizer.chat_template = tokenizer.chat_template.replace(" <assistant>{%", " <assistant> <user>{%")
    net.rendering = Rendering(tokenizer, **sizes)
    assert torch.equal(net.refusal_tokens(), expected)


def test_openers_that_no_first_token_tells_are_left_out_and_named_once(net: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert net._first_tokens(["i", "Nevermore", "Alas"]) == net._first_tokens(["i", "Nevermore", "Alas"])
    said = capsys.readouterr().err
    assert said.count("Nevermore, Alas: no first token tells them") == 1 and "model.refusal_words" in said
    assert net._first_tokens(["i"]) == [net.tokenizer.convert_tokens_to_ids("i")] and capsys.readouterr().err == ""
    with pytest.raises(Invalid, match=r"^model.refusal_words: Nevermore, Alas: no first token tells them"):
        net._first_tokens(["Nevermore", "Alas"])


def test_an_answer_that_would_end_before_its_end_is_refused_by_its_row(net: Any) -> None:
    with pytest.raises(Invalid, match=r"^data: row 1: the answer holds '<eos>', which ends a reply"):
        net.check_rows(rows(["now", "now"], ["yes", "yes <eos> now"]))
    net.check_rows(rows(["now <eos>"], ["yes"]))
