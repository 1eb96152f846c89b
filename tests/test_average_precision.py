"""Average precision, worked by hand."""

import numpy as np
import pytest

from lesionpipe.evaluate.hit_flags import average_precision, hit_flags

A, B, FAR = [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]


def boxes(*rows):
    return np.array(rows, float).reshape(-1, 4)


def test_one_false_positive_between_two_hits():
    # hit, miss, hit of two lesions: precision 1 at recall 1/2 and 2/3 at recall 1
    value = average_precision([boxes(A, FAR, B)], [np.array([0.9, 0.8, 0.7])], [boxes(A, B)])
    assert value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_precision_counts_as_the_best_at_this_recall_or_above():
    # miss, hit, hit: precisions 0, 1/2, 2/3; the envelope is 2/3 throughout
    value = average_precision([boxes(FAR, A, B)], [np.array([0.9, 0.8, 0.7])], [boxes(A, B)])
    assert value == pytest.approx(2 / 3)


def test_scores_are_compared_over_all_images():
    found, scores = [boxes(FAR), boxes(A)], [np.array([0.2]), np.array([0.6])]
    assert average_precision(found, scores, [boxes(), boxes(A)]) == 1.0
    assert average_precision(found, scores[::-1], [boxes(), boxes(A)]) == 0.5


def test_a_missed_lesion_lowers_the_recall():
    assert average_precision([boxes(A)], [np.array([0.9])], [boxes(A, B)]) == 0.5


def test_a_second_box_on_a_lesion_is_a_false_positive():
    np.testing.assert_array_equal(hit_flags(boxes(A, A), np.array([0.3, 0.9]), boxes(A), 0.5), [False, True])


def test_iou_of_exactly_one_half_hits():
    half = [0, 0, 10, 5]
    assert average_precision([boxes(half)], [np.array([0.9])], [boxes(A)]) == 1.0
    assert average_precision([boxes(half)], [np.array([0.9])], [boxes(A)], iou=0.51) == 0.0


def test_nothing_found_no_lesions_no_images():
    assert average_precision([boxes()], [np.zeros(0)], [boxes(A)]) == 0.0
    assert average_precision([boxes(A)], [np.ones(1)], [boxes()]) == 0.0
    assert average_precision([], [], []) == 0.0
