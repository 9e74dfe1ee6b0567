"""The small classifier of texts: hashing that nothing escapes, and mathematics written out again."""

from __future__ import annotations

from zlib import crc32

import pytest
import torch

from testbed.api import ImageTask, Invalid, Task, Unreadable
from testbed.model.text import announce
from testbed.model.text_small import TOKEN, TextSmall, hashed

TASK = Task("text", ("negative", "positive"))


def small(**options: int | float) -> TextSmall:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TextSmall(TASK, **{"buckets": 64, "width": 8, "channels": 6, **options}).eval()


def test_a_word_is_hashed_with_its_case_and_its_pieces_without() -> None:
    assert TOKEN.findall("No-one\u200b's caf\u00e9 ,") == ["No", "-", "one", "\u200b", "'", "s", "caf\u00e9", ","]
    pieces = {"<go", "got", "ot>", "<got", "got>"}
    assert hashed("Got", 64) == (1 + crc32(b"Got") % 64, tuple(sorted(1 + crc32(piece.encode()) % 64 for piece in pieces)))
    assert hashed("got", 64)[1] == hashed("Got", 64)[1] and hashed("got", 64)[0] != hashed("Got", 64)[0]
    assert hashed(",", 64)[1] == (1 + crc32(b"<,>") % 64,)


@torch.no_grad()
def test_the_logits_are_those_of_the_formula() -> None:
    victim, text = small(), "not dull but Warm"
    vectors = []
    for word in text.split():
        number, pieces = hashed(word, 64)
        vectors.append(victim.words.weight[number] + victim.pieces.weight[list(pieces)].mean(0))
    padded = torch.stack([torch.zeros(8), *vectors, torch.zeros(8)])
    weight, bias = victim.convolution.weight, victim.convolution.bias
    windows = [(weight * padded[place : place + 3].T).sum((1, 2)) + bias for place in range(4)]
    convolved = torch.stack(windows).relu()
    features = torch.cat([convolved.max(0).values, convolved.mean(0)])
    expected = victim.head(features)
    assert torch.allclose(victim([text])[0], expected, atol=1e-5)
    assert torch.allclose(victim.features([text], "embedding")[0], torch.stack(vectors).mean(0), atol=1e-5)
    assert torch.allclose(victim.features([text], "penultimate")[0], features, atol=1e-5)


@torch.no_grad()
def test_a_text_is_read_alone_whatever_stands_beside_it() -> None:
    victim, texts = small(), ["a warm film", "", "\u200b", "so long " * 30]
    together = victim(texts)
    for text, logits in zip(texts, together, strict=True):
        assert torch.allclose(victim([text])[0], logits, atol=1e-5)
    assert not torch.allclose(together[1], together[2])
    assert not torch.allclose(victim(["dull not warm"]), victim(["warm not dull"]))


@torch.no_grad()
def test_longer_texts_are_cut_and_counted_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    announce.cache_clear()
    victim = small(max_length=3)
    assert torch.equal(victim(["a b c d e"]), victim(["a b c x"])) and victim.truncated == 2
    victim(["a b c d e", "a b c"])
    assert victim.truncated == 2 and victim.metadata() == {"max_length": "3", "truncated": "2"}
    assert capsys.readouterr().err.count("model.max_length=3") == 1


@pytest.mark.parametrize("wrong", [{"buckets": 0}, {"width": 0}, {"kernel": -1}, {"dropout": 1.0}, {"max_length": 0}])
def test_impossible_values_are_refused(wrong: dict[str, int | float]) -> None:
    with pytest.raises(Invalid) as refusal:
        small(**wrong)
    assert refusal.value.parameter in wrong


def test_images_are_none_of_its_business() -> None:
    with pytest.raises(Unreadable, match="reads texts, and the data are images"):
        TextSmall(ImageTask("images", ("0", "1")))
