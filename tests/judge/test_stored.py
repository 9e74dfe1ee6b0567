"""Stored replies: byte-exact, private, and read with care; agreement against numbers worked out by hand."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.agreement import agreement, labelled, read_labels
from testbed.answers import asked, read_answers, record, write_answers
from testbed.api import Invalid
from testbed.language import Message, Reply
from testbed.marks import CANARY

ANY = st.text(alphabet=st.characters(exclude_categories=()))
ODD = 'a\u2028b\u200bc\x85\ud800d\x00e\r\n{}"\\\ufeff\U0001f600'


def row(exam: str = "restricted", number: int = 0, reply: str = "no", outcome: int | None = 0, **more: Any) -> dict[str, Any]:
    prompt = (Message("user", f"prompt {number}"),)
    parts: dict[str, Any] = {"step": None, "victim": "", **more}
    victim, step = parts["victim"], parts["step"]
    return record(exam, step, victim, number, prompt=prompt, reply=Reply(reply, 0.1), reference="r", outcome=outcome)


def joined(text: str) -> str:
    """Two surrogates that belong together are the character that they stand for, in JSON as in UTF-16."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@given(text=ANY, odds=st.none() | st.floats(allow_nan=False))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, text: str, odds: float | None) -> None:
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    for said in (text, ODD, ""):
        prompt = (Message("system", said), Message("user", "x"))
        write_answers(path, [record("e", 3, "", 0, prompt=prompt, reply=Reply(said, odds), reference=said, outcome=None)])
        whole = joined(said)
        assert asked(read_answers(path)[0]) == ((Message("system", whole), prompt[1]), Reply(whole, odds), whole)


def test_only_the_owner_may_read_and_the_first_line_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.touch(0o644)
    write_answers(path, [row(), row(number=1)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_bytes().splitlines()
    assert json.loads(lines[0]) == {"testbed": {"schema": 1, "canary": CANARY}} and len(lines) == 3
    assert read_answers(path) == [row(), row(number=1)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no file of answers of schema 1"),
        ('{"testbed": {"schema": 2}}\n', "is no file of answers of schema 1"),
        ("[]\n", "is no file of answers of schema 1"),
        ('{"testbed": {"schema": 1}}\n\n{"exam": \n', r"answers\.jsonl line 3: is no JSON"),
        ('{"testbed": {"schema": 1}}\n{"exam": "x"}\n', r"answers\.jsonl line 2: lacks step, victim, row"),
        ('{"testbed": {"schema": 1}}\n' + json.dumps({**row(), "outcome": "maybe"}), "line 2: 'maybe' is no outcome"),
        (b"\xff", r"answers\.jsonl: cannot be read"),
    ],
)
def test_a_file_that_is_not_one_is_named_with_the_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Invalid, match=said):
        read_answers(path)


def test_kappa_by_hand() -> None:
    first = ["refuse"] * 25 + ["correct"] * 25
    second = ["refuse"] * 20 + ["correct"] * 5 + ["refuse"] * 10 + ["correct"] * 15
    found = agreement(first, second)
    assert found is not None and found.n == 50 and found.share == 0.7
    assert found.kappa == pytest.approx((0.7 - (0.5 * 0.6 + 0.5 * 0.4)) / 0.5)
    assert agreement([], []) is None
    alone = agreement(["refuse"] * 3, ["refuse"] * 3)
    assert alone is not None and alone.kappa is None and alone.share == 1


def test_what_one_side_cannot_tell_counts_as_comply() -> None:
    knows = ["refuse", "correct", "wrong", "empty"]
    cheap = ["refuse", "comply", "comply", "empty"]
    found = agreement(cheap, knows, tells={"refuse", "comply", "empty"})
    assert found is not None and (found.kappa, found.share) == (1, 1) and found.outcomes == ("refuse", "empty", "comply")
    odds = agreement(["refuse", "comply", "comply", "comply"], knows, tells={"refuse", "comply"})
    assert odds is not None and odds.share == 1 and odds.outcomes == ("refuse", "comply")
    both = agreement(["refuse", "wrong", "wrong", "empty"], knows, tells=set(knows), others=set(knows))
    assert both is not None and both.share == 0.75


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_labels_name_their_replies(tmp_path: Path, form: str) -> None:
    rows = [row(number=number, reply=f"reply {number}", step=step) for step in (0, 5) for number in (0, 1)]
    rows += [row(number=0, reply="other", victim="undefended_", step=0)]
    given = [("0", "0", "refuse"), ("1", "5", "wrong")]
    path = tmp_path / f"labels.{form}"
    if form == "csv":
        lines = [f"restricted,{number},,{step},{label}" for number, step, label in given]
        path.write_text(
            "\n".join(["exam,row,prompt_sha256,step,label", *lines, f"restricted,,{rows[1]['prompt_sha256']},0,empty"])
        )
    else:
        named: list[dict[str, Any]] = [{"row": int(number), "step": int(step), "label": label} for number, step, label in given]
        named += [{"prompt_sha256": rows[1]["prompt_sha256"], "step": 0, "label": "empty"}]
        path.write_text("\n".join(json.dumps({"exam": "restricted", **label}) for label in named))
    assert labelled(read_labels(path), rows, path) == [(0, "refuse"), (3, "wrong"), (1, "empty")]
    rows[2]["reply"] = "it changed"
    path.write_text(
        "exam,row,label\nrestricted,0,refuse\n" if form == "csv" else '{"exam":"restricted","row":0,"label":"refuse"}'
    )
    with pytest.raises(Invalid, match=r"line \d: is about 2 replies that differ"):
        labelled(read_labels(path), rows, path)
    with pytest.raises(Invalid, match="is about no reply of this run"):
        labelled(read_labels(path), rows[4:], path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exam,row,label\n", "holds no labels"),
        ("exam,label\nopen,refuse\n", r"line 2: must have exam, label, and row or prompt_sha256"),
        ("exam,row,label\nopen,1,refuse\nopen,2,refused\n", r"line 3: label 'refused' is no outcome; choose from refuse, "),
        ("exam,row,label\nopen,one,refuse\n", "line 2: row and step must be whole numbers"),
        ('exam,row,label\nopen,1,"refu"se\n', "line 2: is no CSV"),
    ],
)
def test_bad_labels_are_named_with_the_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(Invalid, match=said):
        read_labels(path)
    with pytest.raises(Invalid, match="cannot be read"):
        read_labels(tmp_path / "none.csv")
