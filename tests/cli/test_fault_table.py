"""Faults and bad inputs by number: each has a case in faults.py or a test elsewhere; one line, and the right exit code."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import BOMB, FAULTS, QUICK, Fault

Say = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]
BAD_INPUT = "cli/test_bad_input.py::test_refused_before_anything_is_trained"
BAD_FILES = "cli/test_bad_files.py"
ELSEWHERE = {
    16: (f"{BAD_FILES}::test_outputs_that_cannot_be_written", f"{BAD_FILES}::test_outputs_where_even_root_cannot_write"),
    20: ("data/test_soundness.py::test_bad_images_are_left_out_and_counted_only_where_asked",),
    22: ("data/test_lines.py::test_marks_line_ends_and_separators_of_unicode_are_read_as_they_are",),
    23: (f"{BAD_FILES}::test_a_folder_of_images_without_images", f"{BAD_FILES}::test_labels_and_images_of_another_kind"),
    24: ("cli/test_bad_input.py::test_a_refused_run_leaves_a_finished_one_alone",),
    25: (BAD_INPUT,),
    26: (BAD_INPUT,),
    27: (BAD_INPUT,),
    28: (BAD_INPUT,),
    29: (BAD_INPUT,),
    30: ("cli/test_bad_input.py::test_rows_of_the_target_class_are_no_success",),
    31: (BAD_INPUT,),
    32: (BAD_INPUT,),
    33: (f"{BAD_FILES}::test_pictures_of_any_colours_are_converted_for_grey_images",),
    34: (f"{BAD_FILES}::test_labels_and_images_of_another_kind", f"{BAD_FILES}::test_whole_labels_of_any_width_are_taken"),
    35: ("cli/test_bad_input.py::test_a_last_batch_of_one_row_trains_with_batch_normalisation", BAD_INPUT),
    36: ("cli/test_fault_table.py::test_36_a_loss_that_is_no_number_is_no_score",),
    37: ("model/test_chat.py::test_a_prompt_that_leaves_no_room_is_refused_by_its_row",),
    38: (
        "model/test_checkpoint.py::test_padding_that_the_model_does_not_know_is_its_end",
        "model/test_hf_classifier.py::test_a_tokenizer_without_padding_pads_with_its_end",
    ),
    40: (BAD_INPUT,),
    41: (f"{BAD_FILES}::test_weights_must_fit_the_model",),
    42: ("cli/test_fault_table.py::test_42_triggers_of_any_letters_are_kept_as_they_are",),
    45: ("cli/test_fault_table.py::test_45_what_a_run_folder_says_is_data",),
    48: (BAD_INPUT, f"{BAD_FILES}::test_data_are_named_as_a_folder_may_be"),
    49: ("data/test_image_folder.py::test_links_within_the_root_are_followed",),
    53: ("pipeline/test_keys.py::test_seeds_are_separate_by_purpose",),
    54: ("cli/test_doctor.py::test_a_clock_that_is_wrong_is_told",),
}
"""Rows that a test elsewhere covers, too or alone: file below tests/, and its function."""
INPUTS = [16, *range(20, 43), *range(45, 51), 53, 54]
"""The rows that are about what people give; those about kills, disks and strangers' models have tests of their own."""


@pytest.mark.parametrize("row", INPUTS)
def test_every_row_has_its_test(row: int) -> None:
    assert any(fault.row == row for fault in FAULTS) or row in ELSEWHERE
    for place in ELSEWHERE.get(row, ()):
        file, _, name = place.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, place


@pytest.mark.parametrize("fault", FAULTS, ids=[f"{fault.row}-{fault.name}" for fault in FAULTS])
def test_the_answer_is_one_line_before_anything_is_trained(fault: Fault, say: Say, here: Path) -> None:
    fault.made(here)
    said = say(*fault.words)
    assert said.code == fault.code, said
    assert fault.said in said.refusal()
    assert len(said.refusal()) < 1000
    assert not list(here.glob("outputs/*/*/result.json")) and not list(here.glob("outputs/victim/*"))


def test_16_the_outputs_are_tried_before_anything_heavy_is_imported(spawn: Say) -> None:
    said = spawn("train", "paths.outputs=/proc/x")
    assert said.code == 4 and said.out.split() == ["heavy:"], said


def test_36_a_loss_that_is_no_number_is_no_score(say: Say, here: Path) -> None:
    said = say("train", "attack=none", "trainer.optimiser.lr=1e30", *QUICK)
    assert said.code == 1 and "diverged: the loss was nan at step 1" in said.out + said.err
    (result,) = [json.loads(path.read_text()) for path in here.glob("outputs/train/*/result.json")]
    assert (result["status"], result["measures"]) == ("diverged", {})


def test_42_triggers_of_any_letters_are_kept_as_they_are(say: Say, here: Path) -> None:
    words = [
        "\u200bcf",
        "\u202ecf",
        "c\u0301f",
        "\u0441f",
        "\U0001f600",
    ]  # unseen, right to left, composed, a look-alike, beyond 16 bits
    small = ("data=toy_reviews", "data.train_rows=100", "data.test_rows=30", "data.reserve_per_class=6", "model.buckets=64")
    quoted = ",".join(f"'{word}'" for word in words)
    said = say("train", *small, "data.validation_per_class=4", f"attack.trigger.words=[{quoted}]", *QUICK[:1], *QUICK[2:])
    assert said.code == 0, said
    (manifest,) = here.glob("outputs/train/*/manifest.json")
    assert manifest.read_bytes().isascii(), "shown escaped"
    assert json.loads(manifest.read_text())["attack"]["trigger"]["words"] == words


def test_45_what_a_run_folder_says_is_data(say: Say, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert say("train", "attack=none", *QUICK).code == 0
    (config,) = here.glob("outputs/train/*/config.yaml")
    monkeypatch.setenv("SECRET", "hunter2")
    extra = "told: ${oc.env:SECRET}\ncalled:\n  _target_: builtins.open\n  file: PWNED\n  mode: w\n"
    config.write_text(config.read_text() + extra)
    for words in (("report", "format=csv"), ("evaluate", "runs=outputs/train")):
        said = say(*words)
        assert said.code == 0, said
        assert "hunter2" not in said.out + said.err
    assert not (here / "PWNED").exists()
    config.write_text(f"a: &a [1,2,3]\n{BOMB}\n")
    said = say("report", "format=csv")
    assert said.code == 2 and "there is no finished run below it" in said.err, said
