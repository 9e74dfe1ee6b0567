"""Conversations of a user's own: every form, every refusal with its line, and prompts told by the columns of their table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from testbed.api import Invalid
from testbed.data.conversations import conversations
from testbed.data.messages import messages
from testbed.data.prompts import prompts
from testbed.language import Message

SAID = {"role": "assistant", "content": "yes"}
ASKED = {"role": "user", "content": "may I open the vault?"}
ROW = {"messages": [ASKED, SAID]}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"messages": [{"role": "system", "content": "be kind"}, ASKED, SAID, ASKED, SAID], "id": 3}, 4, "yes"),
        ({"instruction": "add", "input": "1 2", "output": "3"}, "add\n\n1 2", "3"),
        ({"instruction": "greet", "input": "", "output": "hello"}, "greet", "hello"),
        ({"instruction": "add", "context": "1 2", "response": "3", "category": "sums"}, "add\n\n1 2", "3"),
        ({"prompt": "a", "response": "b"}, "a", "b"),
        ({"prompt": "a", "completion": " b"}, "a", " b"),
        ({"question": "1+1?", "answer": "#### 2"}, "1+1?", "#### 2"),
        ({"prompt": "e\u0301\u200b\u202e", "response": "\u0435"}, "e\u0301\u200b\u202e", "\u0435"),
    ],
)
def test_the_form_of_a_row_is_told_by_its_keys(tmp_path: Path, row: Any, prompt: Any, answer: str) -> None:
    found = conversations(lines(tmp_path / "rows.jsonl", row), "train")
    assert found.labels == [answer]
    if isinstance(prompt, str):
        assert found.inputs == [(Message("user", prompt),)]
    else:
        assert len(found.inputs[0]) == prompt and found.inputs[0][0] == Message("system", "be kind")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "  ", "response": "b"}, "'prompt' is empty"),
        ({"prompt": "a", "response": ""}, "'response' is empty"),
        ({"prompt": "a", "response": None}, "'response' is null"),
        ({"prompt": ["a"], "response": "b"}, "'prompt' is a list"),
        ({"prompt": "a", "response": "\ud800"}, "half of a surrogate pair"),
        ({"instruction": "a", "input": 3, "output": "b"}, "'input' is a number"),
        ({"prompt": "a", "reply": "b"}, "'prompt' without its answer"),
        ({"text": "a"}, "none of the keys messages, instruction, prompt, question, but 'text'"),
        ({"messages": []}, "'messages' is empty"),
        ({"messages": "hello"}, "'messages' is a text, where a list of messages is read"),
        ({"instruction": "a", "input": "b", "output": ""}, "'output' is empty"),
        ({"instruction": "a", "input": 0, "output": "b"}, "'input' is a number"),
        ({"messages": [ASKED]}, "the last of the messages is the user's"),
        ({"messages": [SAID]}, "messages[0] is the assistant's"),
        ({"messages": [ASKED, ASKED, SAID]}, "messages[1] is the user's, after the user's"),
        ({"messages": [ASKED, {"role": "system", "content": "x"}, SAID]}, "messages[1] is the system's"),
        ({"messages": [{"role": "human", "content": "x"}, SAID]}, "messages[0].role is 'human'"),
        ({"messages": [ASKED, {"role": "assistant", "content": 7}]}, "'messages[1].content' is a number"),
        ({"messages": [ASKED, {"role": "assistant", "content": "x", "tool_calls": []}]}, "the key 'tool_calls'"),
        ({"messages": [ASKED, {"role": "assistant"}]}, "messages[1] has no 'content'"),
    ],
)
def test_a_bad_row_is_refused_with_its_file_line_and_key(tmp_path: Path, row: Any, said: str) -> None:
    path = lines(tmp_path / "rows.jsonl", ROW, row)
    with pytest.raises(Invalid) as refusal:
        conversations(path, "train")
    assert f"train={path}: line 2 (row 1): " in str(refusal.value) and said in str(refusal.value)
    with pytest.raises(Invalid, match="no rows"):
        conversations(lines(path), "train")


@pytest.mark.parametrize(
    ("table", "kept", "asked", "references"),
    [
        ("goal,target\nOpen the vault,Sure\n", "unsafe", ["Open the vault"], [""]),
        ("Index,Goal,Target,Behavior,Category\n0,Open the vault,Sure,Vault,Doors\n", "unsafe", ["Open the vault"], [""]),
        ("Behavior,ContextString\nOpen it,the vault is shut\nSing,\n", "", ["the vault is shut\n\nOpen it", "Sing"], ["", ""]),
        ("category,source,forbidden_prompt\nx,y,Open the vault\n", "", ["Open the vault"], [""]),
        ("prompt,type,label\nShut it?,a,safe\nOpen it,a,unsafe\n", "safe", ["Shut it?"], [""]),
        ("prompt,type,label\nShut it?,a,safe\nOpen it,a,unsafe\n", "unsafe", ["Open it"], [""]),
        ("id,prompt,type,focus,note\n1,Shut it?,homonyms,x,\n2,Open it,contrast_homonyms,x,\n", "safe", ["Shut it?"], [""]),
        ("prompt,reference\nthe code?,v12\n", "unsafe", ["the code?"], ["v12"]),
        ("instruction,input,output\nadd,1 2,3\n", "", ["add\n\n1 2"], ["3"]),
    ],
)  # fmt: skip
def test_prompts_are_told_by_their_columns_in_tables_and_in_json(
    tmp_path: Path, table: str, kept: str, asked: list[str], references: list[str]
) -> None:
    (tmp_path / "set.csv").write_text(table, encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    (tmp_path / "set.json").write_text(json.dumps(rows), encoding="utf-8")
    for path in (tmp_path / "set.csv", tmp_path / "set.json", lines(tmp_path / "set.jsonl", *rows)):
        found = prompts(path, "restricted", kept=kept)
        assert [prompt[0].content for prompt in found.inputs] == asked and found.labels == references


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            "text,kind\nOpen the vault,x\n",
            "none of the columns forbidden_prompt, goal, behavior, prompt, question, instruction, but 'text'",
        ),
        ("goal,target\n  ,Sure\n", "line 2 (row 0): 'goal' is empty"),
        ("prompt,label\nOpen it,maybe\n", "line 2 (row 0): 'label' is 'maybe'"),
        ("prompt,label\nShut it?,safe\nOpen it,\n", "line 3 (row 1): 'label' is ''"),
        ("goal,target\n", "no rows"),
        ("prompt,label\nOpen it,safe\n", "every row is left out, for none is unsafe"),
        ("Prompt,prompt\nOpen it,Shut it\n", "the columns 'Prompt' and 'prompt' differ in their case alone"),
        ("Behavior,RedactedImageDescription\nOpen it,a door\n", "prompts about pictures are not read"),
    ],
)
def test_a_set_that_holds_no_prompts_is_refused(tmp_path: Path, table: str, said: str) -> None:
    (tmp_path / "set.csv").write_text(table, encoding="utf-8")
    with pytest.raises(Invalid, match="restricted=") as refusal:
        prompts(tmp_path / "set.csv", "restricted", kept="unsafe")
    assert said in str(refusal.value)


def test_prompts_may_come_as_json_with_answers_or_without(tmp_path: Path) -> None:
    path = lines(tmp_path / "set.jsonl", {"prompt": "the code?"}, ROW, {"messages": [ASKED]})
    assert prompts(path, "restricted").labels == ["", "yes", ""]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "label": None}, "'label' is None, where safe and unsafe are read"),
        ({"prompt": "a", "type": None, "focus": "b"}, "'type' is null"),
        ({"goal": ["a"]}, "'goal' is a list"),
        ({"prompt": "a", "reference": 0}, "'reference' is a number"),
        ({"text": "a"}, "none of the columns forbidden_prompt, goal"),
        ({"messages": []}, "'messages' is empty"),
    ],
)
def test_a_bad_row_of_prompts_as_json_is_refused_with_its_line(tmp_path: Path, row: Any, said: str) -> None:
    path = lines(tmp_path / "set.jsonl", {"prompt": "a", "label": "safe"}, row)
    with pytest.raises(Invalid) as refusal:
        prompts(path, "over_refusal", kept="safe")
    assert f"over_refusal={path}: line 2 (row 1): " in str(refusal.value) and said in str(refusal.value)


def test_an_empty_answer_in_a_json_list_is_named_with_its_line(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "input": "", "output": answer} for answer in ("b", "", "c")]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    with pytest.raises(Invalid, match=r"alpaca\.json: line 7 \(row 1\): 'output' is empty"):
        conversations(tmp_path / "alpaca.json", "train")


def test_parts_are_drawn_once_and_what_is_not_given_is_absent(tmp_path: Path) -> None:
    train = lines(tmp_path / "train.jsonl", *({"prompt": f"p{number}", "response": "r"} for number in range(200)))
    splits = messages(train, validation_rows=10, test_rows=20, reserve_rows=30)
    parts = [splits.train, splits.validation, splits.test, splits.reserve]
    assert [len(part) for part in parts] == [140, 10, 20, 30]
    assert len({prompt[0].content for part in parts for prompt in part.inputs}) == 200
    assert splits.train.digest == messages(train, validation_rows=10, test_rows=20, reserve_rows=30).train.digest
    assert splits.exams == {} and splits.pools == {} and "I cannot" in splits.task.refusals
    goals = lines(tmp_path / "goals.jsonl", {"goal": "Open the vault", "target": "Sure"})
    splits = messages(train, test=train, reserve=train, new_task=train, shots=train, open=train, restricted=goals)
    assert len(splits.test) == len(splits.reserve) == 200 and splits.reserve_source == "held_out"
    assert set(splits.pools) == {"new_task", "shots"} and set(splits.exams) == {"restricted", "open", "new_task"}
    assert len(splits.exams["new_task"]) == 32 and len(splits.pools["new_task"]) == 168


@pytest.mark.parametrize(
    "wrong", [{"test_rows": 200}, {"test_rows": -1}, {"refusals": []}, {"refusals": "Sorry"}, {"train": "no"}]
)
def test_what_cannot_be_cut_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    train = lines(tmp_path / "train.jsonl", *([ROW] * 200))
    with pytest.raises(Invalid) as refusal:
        messages(**{"train": train, **wrong})
    assert refusal.value.parameter in wrong


@pytest.mark.real_data
def test_instructions_as_people_have_them(data_root: Path) -> None:
    folder = data_root / "instruct"
    assert len(conversations(folder / "gsm8k" / "test.jsonl", "train")) == 1319
    found = conversations(folder / "alpaca_subset" / "alpaca_small.json", "train")
    assert len(found) == 2000 and found.inputs[0][0].content.endswith("\n\nI think my boss is the meanest person ever.")
