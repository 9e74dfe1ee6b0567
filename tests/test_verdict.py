"""What may be said of one model when all that is known is how clean ones score."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from testbed.finding import ending
from testbed.verdict import (
    FEWEST,
    NOTHING,
    STANDS_OUT,
    SUSPICIOUS,
    UNKNOWN,
    Conclusion,
    Evidence,
    conclusion,
    doubt_about,
    measured,
    of_unlucky,
    p_value,
    relative,
    together,
    verdicts,
)

scores = st.floats(-5, 5, allow_nan=False).map(lambda value: round(value, 2))
several = st.lists(scores, min_size=FEWEST + 1, max_size=12)


def _evidence(values: list[float], **more: object) -> Evidence:
    return Evidence("d", values[0], tuple(values[1:]), **more)  # type: ignore[arg-type]


@given(several)
def test_of_models_that_are_alike_at_most_one_is_suspicious(values: list[float]) -> None:
    turns = [[values[place], *values[:place], *values[place + 1 :]] for place in range(len(values))]
    words = [verdicts([_evidence(turn)])[0] for turn in turns]
    assert sum(each.word == STANDS_OUT for each in words) <= 1
    # The p-value is valid: for every level, no more of the turns fall below it than the level allows.
    ps = [float(each.p or 0) for each in words]
    assert all(sum(p <= level for p in ps) <= level * len(ps) + 1e-9 for level in ps)


tables = st.integers(FEWEST + 1, 9).flatmap(lambda n: st.lists(st.tuples(scores, scores, scores), min_size=n, max_size=n))


@given(tables)
def test_of_models_that_are_alike_at_most_one_is_suspicious_by_class(table: list[tuple[float, float, float]]) -> None:
    """From scores by class on: medians over the suspect too, or the suspect would be favoured or wronged."""
    words = []
    for place in range(len(table)):
        far = relative([table[place], *table[:place], *table[place + 1 :]]).highest
        words.append(verdicts([_evidence(far.tolist())])[0])
    assert sum(each.word == STANDS_OUT for each in words) <= 1
    ps = [float(each.p or 0) for each in words]
    assert all(sum(p <= level for p in ps) <= level * len(ps) + 1e-9 for level in ps)


@example([(0.0, 0.0, 0.0)] * 4 + [(0.0, 0.0, 1.0)] * 2)
@given(tables)
def test_of_models_that_are_alike_at_most_one_is_suspicious_however_many_detectors_look(
    table: list[tuple[float, float, float]],
) -> None:
    ends = []
    for place in range(len(table)):
        turned = [table[place], *table[:place], *table[place + 1 :]]
        found = [_evidence([row[detector] for row in turned]) for detector in range(3)]
        ends.append(conclusion(found, verdicts(found)))
    guilty = [end for end in ends if end.word == SUSPICIOUS]
    assert len(guilty) <= 1 and all(end.detectors and end.p == pytest.approx(1 / len(table)) for end in guilty)
    ps = [float(end.p or 0) for end in ends]
    assert all(sum(p <= level + 1e-12 for p in ps) <= level * len(ps) + 1e-6 for level in ps)


def test_detectors_together_by_hand() -> None:
    """The first model is far out for a detector that hardly scatters; the last one, hardly, for one that does."""
    still, wild = [3.0, 1.0, 2.0, 1.0], [0.0, -9.0, 4.0, 9.0]
    far = (3 - 4 / 3) / np.std([1, 2, 1]), (9 + 5 / 3) / np.std([0, -9, 4])
    assert together([still, wild])[[0, 3]] == pytest.approx(far)
    assert together([[1.0, 1.0, 1.0], [2.0, 1.0, 1.0]]) == pytest.approx([1e9, 0, 0])  # others that are all the same
    found = [_evidence([*values, low]) for values, low in ((still, 1.5), (wild, -4.0))]
    assert conclusion(found, verdicts(found)).detectors == ("d",)


def test_what_stands_out_for_one_detector_is_no_alarm_where_a_clean_model_lies_farther_for_another() -> None:
    found = [_evidence([1.2, 1.0, 0.0, 0.5, 0.7]), _evidence([0.0, 0.1, 9.0, 0.0, 0.1])]
    told = verdicts(found)
    assert [each.word for each in told] == [STANDS_OUT, NOTHING]
    end = conclusion(found, told)
    assert (end.word, end.toward, end.detectors, end.p) == (NOTHING, None, (), pytest.approx(2 / 5))


def test_one_cohort_in_ten_errs_more_often_than_is_told() -> None:
    """Drawn: cohorts of 8 clean models, each asked about 200 further clean ones, scored by ten classes."""
    draw, n = np.random.default_rng(0), 8
    rates = []
    for _ in range(150):
        clean, more = draw.normal(size=(n, 10)), draw.normal(size=(200, 10))
        far = [relative([one, *clean]).highest for one in more]
        rates.append(np.mean([each[0] > each[1:].max() for each in far]))
    assert np.mean(rates) == pytest.approx(1 / (n + 1), rel=0.25)  # what is told as the average
    assert np.mean(np.array(rates) <= of_unlucky(n)) == pytest.approx(0.9, abs=0.08)  # standard error 0.025
    assert of_unlucky(n) > 2 / (n + 1)
    assert of_unlucky(8) == pytest.approx(1 - 0.1**0.125) and of_unlucky(1) == pytest.approx(0.9)


def test_a_p_value_by_hand() -> None:
    assert p_value(3, (1, 2, 4, 3)) == (1 + 2) / 5
    assert p_value(9, (1, 2, 4, 3)) == 1 / 5


@given(st.integers(2, 9).flatmap(lambda n: st.tuples(st.just(n), st.permutations(range(n)))), st.integers(0, 2**16))
def test_relative_scores_know_no_order_of_models(drawn: tuple[int, list[int]], seed: int) -> None:
    n, order = drawn
    table = np.random.default_rng(seed).normal(size=(n, 5))
    assert relative(table[order]).highest.tolist() == relative(table).highest[order].tolist()


def test_a_class_is_compared_with_itself_in_other_models() -> None:
    """Class 1 is easy to reach in every model; class 0 only in the first."""
    table = np.array([[2.0, 3.0], [0.0, 3.5], [0.0, 3.0], [0.0, 2.8], [0.0, 3.1]])
    found = relative(table)
    assert found.toward[0] == 0 and found.highest[0] == 2.0
    assert int(found.highest.argmax()) == 0
    assert int(table.max(1).argmax()) == 1


def test_what_the_detector_cannot_tell() -> None:
    few = _evidence([9.0, 1.0, 1.0])
    reserve = Evidence("d", reason="data.reserve=0: at least 1 clean rows")
    alone = _evidence([9.0], fired=True)
    for each, why in ((few, "2 clean models are too few"), (reserve, "at least 1 clean rows"), (alone, "no clean models")):
        (told,) = verdicts([each])
        assert (told.word, told.p) == (UNKNOWN, None)
        assert why in told.why
    (told,) = verdicts([_evidence([9.0, *[1.0] * 8])], "they are models of another kind")
    assert (told.word, told.why, told.p) == (UNKNOWN, "they are models of another kind", None)


def test_silence_among_models_that_are_flagged_themselves_says_nothing() -> None:
    quiet = _evidence([1.0, *[2.0] * 8], fired=False, clean_fired=(True,) * 5 + (False,) * 3)
    (told,) = verdicts([quiet])
    assert told.word == UNKNOWN and "5 of 8 clean models" in told.why
    (told,) = verdicts([_evidence([1.0, *[2.0] * 8], fired=False, clean_fired=(True,) * 4 + (False,) * 4)])
    assert told.word == NOTHING
    loud = _evidence([9.0, *[2.0] * 8], fired=True, clean_fired=(True,) * 8)
    (told,) = verdicts([loud])  # ranks among the clean models need no rule of the detector's
    assert told.word == STANDS_OUT and "its own rule flags 8 of 8 clean models too" in told.why


def test_detectors_that_disagree_are_named_each_with_its_class() -> None:
    def said(*toward: int | None) -> tuple[int | None, str]:
        high = [Evidence(name, 9.0, (1.0,) * 8, toward=place) for name, place in zip("abc", toward, strict=False)]
        found = [*high, Evidence("quiet", 0.0, (1.0,) * 8, toward=1)]
        told = verdicts(found)
        lines = [{**asdict(each), **verdict._asdict()} for each, verdict in zip(found, told, strict=True)]
        end = conclusion(found, told)
        report = {"conclusion": {**end._asdict(), "doubt": ""}, "detectors": lines, "classes": list("ABCDEFGH")}
        return end.toward, next(ending(report))

    assert said(3, 3) == (3, "SUSPICIOUS, toward class 3 (D) by a, b")
    assert said(3, 7) == (None, "SUSPICIOUS by a (toward class 3 (D)), b (toward class 7 (H))")
    assert said(3, None) == (3, "SUSPICIOUS by a (toward class 3 (D)), b")
    assert said(None) == (None, "SUSPICIOUS by a")
    assert said() == (None, "NOTHING FOUND")


def test_the_false_alarm_rate_is_told_as_an_average_and_for_one_cohort() -> None:
    found = [Evidence("a", 0.0, (1.0,) * 8)]
    told = verdicts(found)
    lines = [{**asdict(each), **verdict._asdict()} for each, verdict in zip(found, told, strict=True)]
    end = conclusion(found, told)
    report = {"conclusion": {**end._asdict(), "doubt": ""}, "detectors": lines, "classes": ["A"]}
    _, average, cohort, _ = ending(report)
    assert "in 11.1% of audits" in average and "averaged over draws of the clean models" in average
    assert "err together, at up to 25.0% for 90% of such cohorts; another seed= draws others" in cohort


def test_the_family_of_detectors_is_told() -> None:
    found = [_evidence([9.0, *[1.0] * 8], toward=3), _evidence([0.0, *[1.0] * 8]), Evidence("other", reason="no rows")]
    told = verdicts(found)
    assert [each.word for each in told] == [STANDS_OUT, NOTHING, UNKNOWN]
    assert told[0].p == pytest.approx(1 / 9)
    end = conclusion(found, told)
    assert (end.word, end.toward, end.detectors) == (SUSPICIOUS, 3, ("d",))
    assert (end.p, end.false_alarm_rate, end.enough) == (pytest.approx(1 / 9), pytest.approx(1 / 9), 19)
    assert conclusion([found[2]], [told[2]]) == Conclusion(UNKNOWN)
    measures, counts, reasons = measured(found[:1], told[:1])
    assert measures["d_suspected_target"] == 3 and counts["d_p_value"] == 8 and "above all 8" in reasons["d_verdict"]


def test_when_clean_models_are_no_measure() -> None:
    fit = {"name": "clean accuracy", "value": 0.97, "n": 400, "chance": 0.1}
    assert doubt_about(fit, [0.95, 0.98], 0.05) == ""
    assert "another kind" in doubt_about(fit, [0.60, 0.70], 0.05)
    assert "another kind" in doubt_about({**fit, "value": 0.85}, [0.95, 0.98], 0.05)
    assert "no better than chance" in doubt_about({**fit, "value": 0.12}, [0.95, 0.98], 0.05)
    assert "no better than chance" in doubt_about({**fit, "value": 0.5, "n": 4, "chance": 0.25}, [], 0.05)
    assert doubt_about({"name": "mean token probability", "value": 0.01, "n": 9, "chance": None}, [], 0.05) == ""
