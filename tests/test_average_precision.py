"""Average precision, worked by hand; and that the order of the input means nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesionpipe.data.average_precision import average_precision, first_hits

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
    np.testing.assert_array_equal(first_hits(boxes(A, A), np.array([0.3, 0.9]), boxes(A), 0.5), [False, True])


def test_a_box_takes_another_lesion_where_the_nearest_is_taken():
    near = [1, 0, 11, 10]  # IoU 9/11 with both lesions; the first one in place goes to A
    value = average_precision([boxes(A, near)], [np.array([0.9, 0.8])], [boxes(A, [2, 0, 12, 10])])
    assert value == 1.0


def test_iou_of_exactly_one_half_hits():
    half = [0, 0, 10, 5]
    assert average_precision([boxes(half)], [np.array([0.9])], [boxes(A)]) == 1.0
    assert average_precision([boxes(half)], [np.array([0.9])], [boxes(A)], iou=0.51) == 0.0


def test_nothing_found_no_lesions_no_images():
    assert average_precision([boxes()], [np.zeros(0)], [boxes(A)]) == 0.0
    assert average_precision([boxes(A)], [np.ones(1)], [boxes()]) == 0.0
    assert average_precision([], [], []) == 0.0


def test_equal_scores_of_two_images_count_together():
    # a hit and a miss at 0.5: precision 1/2 at recall 1, whichever image comes first
    found, truth = [boxes(A), boxes(FAR)], [boxes(A), boxes()]
    tied = [np.array([0.5]), np.array([0.5])]
    assert average_precision(found, tied, truth) == average_precision(found[::-1], tied, truth[::-1]) == 0.5


def test_equal_scores_within_an_image_count_together():
    for found in (boxes(A, FAR), boxes(FAR, A)):
        assert average_precision([found], [np.array([0.5, 0.5])], [boxes(A)]) == 0.5


# corners on a coarse grid, so that boxes overlap and tie often
box = st.tuples(st.integers(0, 3), st.integers(0, 3)).map(lambda p: [4 * p[0], 4 * p[1], 4 * p[0] + 8, 4 * p[1] + 8])
image = st.tuples(
    st.lists(st.tuples(box, st.sampled_from([0.2, 0.5, 0.8])), max_size=6), st.lists(box, max_size=4, unique_by=tuple)
)


@settings(deadline=None)
@given(st.lists(image, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_the_input_means_nothing(images, random):
    def precision(images):
        found = [boxes(*(row for row, _ in rows)) for rows, _ in images]
        scores = [np.array([score for _, score in rows], float) for rows, _ in images]
        return average_precision(found, scores, [boxes(*lesions) for _, lesions in images], iou=0.3)

    def mixed(rows):
        return random.sample(rows, len(rows))

    again = mixed([(mixed(rows), mixed(lesions)) for rows, lesions in images])
    assert precision(again) == pytest.approx(precision(images), abs=1e-12)
