"""Files of a user's own: what is wrong is named with its file, line and place; what is odd but right is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.api import Invalid
from testbed.data.lines import json_rows, table

GOOD = b'{"a": "1"}'


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (b"\n".join([GOOD, GOOD, b'{"a": }']), "line 3: column 7: broken JSON"),
        (b"\n".join([GOOD, b'{"a": "1"']), "line 2: column 10: broken JSON"),
        (b"\n".join([GOOD, b'{"a": "1"} x']), "line 2: column 11: more follows"),
        (b"\n".join([GOOD, b'{"a": NaN}']), "line 2: NaN is no JSON"),
        (b"\n".join([GOOD, b'{"a": -Infinity}']), "line 2: -Infinity is no JSON"),
        (b"\n".join([GOOD, b'{"a": {"b": 1, "b": 2}}']), "line 2: the key 'b' stands twice"),
        (b"\n".join([GOOD, b'{"a": "caf\xe9"}']), "line 2: the byte 0xe9 at offset 21 is no UTF-8"),
        (b"\n".join([GOOD, b'"text"']), "line 2: str where an object"),
        (b"\n".join([GOOD, b"[" * 100_000]), "line 2: "),
        (b'[\n {"a": "1"},\n {"a": 1,,}\n]', "line 3: column 10: broken JSON"),
        (b'[\n {"a":\n "1"}\n {"a": "2"}]', "line 4: broken JSON"),
        (b'[{"a": "1"},]', "line 1: column 13: broken JSON"),
        (b'[{"a": "1"}', "line 1: broken JSON"),
        (b'[{"a": "1"}]\n{}', "more follows the list"),
    ],
)
def test_what_is_wrong_with_json_is_named_with_its_line(tmp_path: Path, stored: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(stored)
    with pytest.raises(Invalid) as refusal:
        list(json_rows(path, "train"))
    assert f"train={path}: " in str(refusal.value) and said in str(refusal.value) and "\n" not in str(refusal.value)


def test_marks_line_ends_and_separators_of_unicode_are_read_as_they_are(tmp_path: Path) -> None:
    text = "e\u0301 \u00e9 \u200b\u202e \u0430 \u2028 \x85"
    stored = '\ufeff{"a": "' + text + '"}\r\n\r\n  {"a": "2"}\r\n'
    (tmp_path / "rows.jsonl").write_bytes(stored.encode())
    rows = list(json_rows(tmp_path / "rows.jsonl", "train"))
    assert [(row.place, row.values["a"]) for row in rows] == [("line 1", text), ("line 3", "2")]


def test_a_json_list_is_read_with_the_line_of_each_item(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('\n[\n {"a":\n 1},\n\n {"a": 2}, {"a": 3}\n]\n', encoding="utf-8")
    rows = list(json_rows(tmp_path / "rows.json", "train"))
    assert [(row.place, row.values["a"]) for row in rows] == [("line 3", 1), ("line 6", 2), ("line 6", 3)]
    (tmp_path / "rows.json").write_text(" [ ] ", encoding="utf-8")
    assert list(json_rows(tmp_path / "rows.json", "train")) == []


def test_tables_have_quotes_or_none_and_know_where_rows_begin(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text,label\r\n"one, ""two""\nthree",1\r\nfour,0\r\n')
    found = table(tmp_path / "a.csv", "train")
    assert found.header == ("text", "label") and found.lines == [2, 4]
    assert found.cells == [['one, "two"\nthree', "1"], ["four", "0"]]
    (tmp_path / "a.tsv").write_bytes(b'say "hi\t1\r\n\r\nso\xc2\x85long\t0')
    found = table(tmp_path / "a.tsv", "train", header=False)
    assert found.lines == [1, 3] and found.cells[0] == ['say "hi', "1"]


@pytest.mark.parametrize(
    ("name", "stored", "said"),
    [
        ("a.csv", b'a,b\n1,2\n"1,2\n3,4', "line 3: broken table"),
        ("a.csv", b"a,b\n1,2\n1,2,3", "line 3: 3 cells, where the first row has 2"),
        ("a.tsv", b"a\tb\n1\t2\n1", "line 3: 1 cells"),
        ("a.tsv", b"a\ta\n1\t2", "line 1: columns named"),
        ("a.csv", b"a,b\n\xff,2", "line 2: the byte 0xff at offset 4"),
        ("a.csv", b"a,b\n", "the file holds no rows"),
        ("a.tsv", b"\xef\xbb\xbf\n\n", "the file holds no rows"),
        ("a.txt", b"a,b", "the ending says neither .csv nor .tsv"),
    ],
)
def test_what_is_wrong_with_a_table_is_named_with_its_line(tmp_path: Path, name: str, stored: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(stored)
    with pytest.raises(Invalid, match="train=") as refusal:
        table(tmp_path / name, "train")
    assert said in str(refusal.value)
    with pytest.raises(Invalid, match="there is no such file"):
        table(tmp_path / "absent.csv", "train")
