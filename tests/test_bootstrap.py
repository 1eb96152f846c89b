"""Intervals: patients are drawn whole, weights count like repetition, and a known spread comes out."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_froc import BOX, FAR, RATES, cases, found_of, truth_of

from lesionpipe.evaluate.bootstrap import PatientDraws, percentile_interval, resample_sensitivity, two_sided_p
from lesionpipe.evaluate.froc import overlapping_pairs, pooled_events, sensitivity
from lesionpipe.evaluate.scores import rank_detections
from lesionpipe.evaluate.truth import Detections, Truth


def repeated(truth: Truth, found: Detections, weights: np.ndarray) -> tuple[Truth, Detections]:
    """The same set with every image, its lesions and its detections written down as often as its patient counts."""
    copies = [i for i in range(len(truth.images)) for _ in range(weights[truth.patients[i]])]
    lesions = [
        [box for box, image in zip(truth.lesion_boxes, truth.lesion_images, strict=True) if image == i] for i in copies
    ]
    table = list(zip(found.images, found.boxes, found.scores, strict=True))
    rows = [(copy, box, score) for copy, i in enumerate(copies) for image, box, score in table if image == i]
    return truth_of(lesions), found_of(rows)


@settings(deadline=None)
@given(cases(), st.data())
def test_a_weight_counts_like_repetition(case, data):
    truth, rows = case
    found = found_of(rows)
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(truth.images), max_size=len(truth.images))))
    events = pooled_events(truth, found, overlapping_pairs(truth, found))
    again, more = repeated(truth, found, weights)
    copied = pooled_events(again, more, overlapping_pairs(again, more))
    assert sensitivity(events, RATES, weights) == pytest.approx(sensitivity(copied, RATES), nan_ok=True)
    precision = rank_detections(truth, found).area(weights)
    assert precision == pytest.approx(rank_detections(again, more).area(), nan_ok=True)


def test_draws_are_of_patients_and_repeatable():
    draws = np.array(list(PatientDraws(20, 50, seed=3)))
    assert draws.shape == (50, 20) and (draws.sum(axis=1) == 20).all()
    assert (draws == list(PatientDraws(20, 50, seed=3))).all() and (draws != list(PatientDraws(20, 50, seed=4))).any()
    assert list(PatientDraws(0, 50, seed=3)) == []


def test_draws_of_many_patients_take_no_more_memory_than_one():
    """As one table, 500 draws of 20,000 patients are 80 MB; one draw and its sum are 0.5 MB."""
    tracemalloc.start()
    sums = [draw.sum() for draw in PatientDraws(20_000, 500, seed=0)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sums == [20_000] * 500 and peak < 2e6


def test_the_interval_is_the_binomial_one_where_each_patient_has_one_lesion():
    """400 patients, 300 found: 0.75 with a standard error of sqrt(0.75 * 0.25 / 400) = 0.0217."""
    truth = truth_of([[BOX]] * 400)
    found = found_of([(i, BOX, 0.9) for i in range(300)])
    events = pooled_events(truth, found, overlapping_pairs(truth, found))
    low, high = percentile_interval(resample_sensitivity(events, np.array([1.0]), PatientDraws(400, 2000, 0)))
    assert low[0] == pytest.approx(0.75 - 1.96 * 0.0217, abs=0.006)
    assert high[0] == pytest.approx(0.75 + 1.96 * 0.0217, abs=0.006)


def test_lesions_of_one_patient_widen_the_interval():
    """The same 400 lesions on 40 patients that are found whole or not at all: about sqrt(10) times as wide."""
    truth = truth_of([[BOX]] * 400, patients=[i // 10 for i in range(400)])
    found = found_of([(i, BOX, 0.9) for i in range(300)])
    events = pooled_events(truth, found, overlapping_pairs(truth, found))
    low, high = percentile_interval(resample_sensitivity(events, np.array([1.0]), PatientDraws(40, 2000, 0)))
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / 40), rel=0.15)


def test_draws_without_a_lesion_are_left_out():
    truth = truth_of([[BOX], []])
    found = found_of([(0, BOX, 0.9)])
    events = pooled_events(truth, found, overlapping_pairs(truth, found))
    samples = resample_sensitivity(events, np.array([1.0]), np.array([[2, 0], [0, 2], [1, 1]]))
    assert samples[:, 0] == pytest.approx([1, np.nan, 1], nan_ok=True)
    assert percentile_interval(samples) == (pytest.approx([1]), pytest.approx([1]))
    assert np.isnan(percentile_interval(samples[1:2])).all() and np.isnan(percentile_interval(samples[:0])).all()


def test_p_values():
    differences = np.array([-1.0] * 2 + [1.0] * 97)
    same = np.zeros(99)
    p = two_sided_p(np.stack([differences, same, np.full(99, np.nan)], axis=1))
    assert p == pytest.approx([2 * 3 / 100, 1, np.nan], nan_ok=True)


def test_average_precision_by_hand():
    """Hit, false, hit of 3 lesions: 1/3 * 1 + 1/3 * 2/3 = 5/9; a tie of the last two lets both count at 2/3."""
    truth = truth_of([[BOX, FAR], [BOX]])
    found = found_of([(0, BOX, 0.9), (1, FAR, 0.8), (1, BOX, 0.7)])
    assert rank_detections(truth, found).area() == pytest.approx(5 / 9)
    tied = found_of([(0, BOX, 0.9), (1, BOX, 0.7), (1, FAR, 0.7)])
    assert rank_detections(truth, tied).area() == pytest.approx(5 / 9)
    assert rank_detections(truth, found_of([])).area() == 0
    assert np.isnan(rank_detections(truth_of([[]]), found_of([])).area())
