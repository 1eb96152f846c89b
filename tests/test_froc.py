"""The published rule: worked cases, a plain walk through the detections, the reference case, and what always holds."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesionpipe.data.coco import read_coco_results
from lesionpipe.evaluate.coco import read_truth
from lesionpipe.evaluate.froc import overlapping_pairs, pooled_events, sensitivity, strict_events, thresholds
from lesionpipe.evaluate.truth import Detections, Truth

BOX = [0.0, 0.0, 9.0, 9.0]  # 10 x 10 px by the +1 convention
FAR = [100.0, 100.0, 109.0, 109.0]
ELSEWHERE = [200.0, 200.0, 209.0, 209.0]


def truth_of(lesions: list[list], patients: list[int] | None = None) -> Truth:
    """`lesions` holds a list of boxes per image."""
    places = np.array([i for i, found in enumerate(lesions) for _ in found], dtype=np.int64)
    boxes = np.array([box for found in lesions for box in found], dtype=np.float64).reshape(-1, 4)
    owners = np.array(patients if patients is not None else range(len(lesions)), dtype=np.int64)
    return Truth(tuple(f"{i:06d}_01_01_001.png" for i in range(len(lesions))), owners, places, boxes)


def found_of(rows: list[tuple]) -> Detections:
    """`rows` are (image, box, score)."""
    return Detections(
        np.array([r[0] for r in rows], dtype=np.int64),
        np.array([r[1] for r in rows], dtype=np.float64).reshape(-1, 4),
        np.array([r[2] for r in rows], dtype=np.float64),
    )


def at(truth: Truth, found: Detections, rates: list[float], strict: bool = False) -> list[float]:
    make = strict_events if strict else pooled_events
    return sensitivity(make(truth, found, overlapping_pairs(truth, found)), np.array(rates)).tolist()


def test_a_worked_case():
    """Two images, two lesions. By falling score: false, hit, false, second hit of the same lesion, hit, false."""
    truth = truth_of([[BOX], [FAR]])
    found = found_of([(0, FAR, 0.9), (0, BOX, 0.8), (1, BOX, 0.7), (0, BOX, 0.6), (1, FAR, 0.5), (1, ELSEWHERE, 0.4)])
    assert at(truth, found, [0.25, 0.5, 1, 1.5, 16]) == [0, 0.5, 1, 1, 1]
    assert at(truth, found, [0.25, 0.5, 1, 1.5, 16], strict=True) == [0, 0.5, 0.5, 1, 1]
    events = pooled_events(truth, found, overlapping_pairs(truth, found))
    assert thresholds(events, np.array([0.5, 1, 1.5, 16])).tolist() == [0.8, 0.5, 0.4, 0.4]
    assert np.isnan(thresholds(events, np.array([0.25]))).all()  # the highest score is already half a false positive


def test_a_pixel_is_added_to_width_and_height():
    """10 x 10 px inside 10 x 20 px is an IoU of exactly 0.5; without the added pixel 81 / 171 = 0.47 would miss."""
    truth = truth_of([[[0, 0, 9, 19]]])
    assert at(truth, found_of([(0, BOX, 0.9)]), [1]) == [1]
    assert at(truth, found_of([(0, [0, 0, 9, 8.9], 0.9)]), [1]) == [0]


def test_one_detection_hits_every_lesion_that_it_overlaps():
    truth = truth_of([[BOX, [1, 0, 10, 9]]])
    assert at(truth, found_of([(0, BOX, 0.9)]), [1]) == [1]


def test_images_without_lesions_or_detections_count_as_images():
    found = found_of([(0, FAR, 0.9), (0, BOX, 0.5)])
    assert at(truth_of([[BOX]]), found, [0.5]) == [0]
    assert at(truth_of([[BOX], []]), found, [0.5]) == [1]


def test_equal_scores_happen_together():
    """Two hits and two false positives at 0.5: the curve runs straight from (0, 0) to (2 FPs, 2 hits)."""
    truth = truth_of([[BOX, FAR]])
    found = found_of([(0, BOX, 0.5), (0, ELSEWHERE, 0.5), (0, FAR, 0.5), (0, [300, 0, 309, 9], 0.5)])
    assert at(truth, found, [0.5, 1, 2]) == [0.25, 0.5, 1]


def test_equal_scores_of_an_image_take_turns_from_the_left_in_the_strict_count():
    """The middle one meets both lesions, the left and the right one only theirs."""
    truth = truth_of([[[0, 0, 9, 9], [2, 0, 11, 9]]])
    middle, left, right = (0, [1, 0, 10, 9], 0.5), (0, [-3, 0, 6, 9], 0.5), (0, [5, 0, 14, 9], 0.5)
    for rows, false in (([middle, left], 0), ([left, middle], 0), ([middle, right], 1), ([right, middle], 1)):
        found = found_of(rows)
        assert len(strict_events(truth, found, overlapping_pairs(truth, found)).false_scores) == false
        assert len(pooled_events(truth, found, overlapping_pairs(truth, found)).false_scores) == 0


def test_only_the_lesions_of_a_group_count_against_all_detections():
    truth = truth_of([[BOX, FAR]])
    found = found_of([(0, FAR, 0.9), (0, BOX, 0.8)])
    events = pooled_events(truth, found, overlapping_pairs(truth, found), np.array([True, False]))
    assert sensitivity(events, np.array([0.5, 1])).tolist() == [0, 1]  # the other group's lesion is a false positive
    nobody = pooled_events(truth, found, overlapping_pairs(truth, found), np.array([False, False]))
    assert np.isnan(sensitivity(nobody, np.array([1.0]))).all()


def test_no_detections_give_zero_and_no_lesions_give_nothing():
    assert at(truth_of([[BOX]]), found_of([]), [0.5, 16]) == [0, 0]
    assert np.isnan(at(truth_of([[]]), found_of([(0, BOX, 0.5)]), [0.5])).all()
    events = pooled_events(truth_of([[BOX]]), found_of([]), overlapping_pairs(truth_of([[BOX]]), found_of([])))
    assert np.isnan(thresholds(events, np.array([1.0]))).all()


def test_a_rate_that_rounds_below_a_whole_count_still_allows_it():
    """0.29 * 100 is 28.999999999999996 in floating point: 29 false positives are allowed all the same."""
    truth = truth_of([[BOX]] + [[]] * 99)
    found = found_of([(0, FAR, 0.9)] * 29 + [(0, BOX, 0.5), (0, FAR, 0.1)])
    assert at(truth, found, [0.29]) == [1]
    assert thresholds(pooled_events(truth, found, overlapping_pairs(truth, found)), np.array([0.29])).tolist() == [0.5]


def test_the_reference_case_is_met(shared_data):
    folder = shared_data / "froc_case"
    truth, ids = read_truth(folder / "ground_truth.json")
    found = Detections(*read_coco_results(folder / "detections.json", ids))
    expected = json.loads((folder / "expected.json").read_text())
    rates = [float(rate) for rate in expected["sensitivity"]]
    assert at(truth, found, rates) == pytest.approx(list(expected["sensitivity"].values()), abs=1e-9)


def walk(truth: Truth, found: Detections, rates: list[float], strict: bool) -> list[float]:
    """The rule as it is published: one detection after the other (scores must differ)."""
    hit, false, sensitivities, fps = set(), 0, [], []
    for i in np.argsort(-found.scores):
        near = {
            j
            for j in np.flatnonzero(truth.lesion_images == found.images[i])
            if overlap(found.boxes[i], truth.lesion_boxes[j]) >= 0.5
        }
        false += not near or (strict and near <= hit)
        hit |= near
        sensitivities.append(len(hit) / len(truth.lesion_boxes))
        fps.append(false / len(truth.images))
    return np.interp(rates, [0, *fps], [0, *sensitivities]).tolist()


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width, height = (min(a[2 + k], b[2 + k]) - max(a[k], b[k]) + 1 for k in (0, 1))
    area_a, area_b = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    inside = max(width, 0) * max(height, 0)
    return inside / (area_a + area_b - inside)


whole = st.integers(0, 12)
box = st.tuples(whole, whole, st.integers(0, 6), st.integers(0, 6)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
images = st.lists(st.lists(box, max_size=3), min_size=1, max_size=4).filter(any)
RATES = [0.1, 0.25, 0.5, 1, 2, 4]


@st.composite
def cases(draw, tied: bool = True):
    """Lesions, and detections that are often near them; scores from a few values, so that ties are common."""
    lesions = draw(images)
    near = st.sampled_from([b for found in lesions for b in found])
    score = st.sampled_from([0.1, 0.3, 0.5, 0.7]) if tied else st.floats(0, 1, exclude_max=True)
    row = st.tuples(st.integers(0, len(lesions) - 1), st.one_of(box, near), score)
    rows = draw(st.lists(row, max_size=14, unique_by=None if tied else (lambda r: r[2])))
    return truth_of(lesions), rows


@settings(deadline=None)
@given(cases(tied=False), st.booleans())
def test_as_by_walking_through_the_detections(case, strict):
    truth, rows = case
    assert at(truth, found_of(rows), RATES, strict) == pytest.approx(walk(truth, found_of(rows), RATES, strict))


@settings(deadline=None)
@given(cases(), st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_input_means_nothing(case, random, strict):
    truth, rows = case
    shuffled = random.sample(rows, len(rows))
    assert at(truth, found_of(rows), RATES, strict) == at(truth, found_of(shuffled), RATES, strict)


@settings(deadline=None)
@given(cases(), st.data(), st.booleans())
def test_a_further_false_positive_never_raises_sensitivity(case, data, strict):
    truth, rows = case
    image = data.draw(st.integers(0, len(truth.images) - 1))
    score = data.draw(st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.9]))
    more = [*rows, (image, [500, 500, 509, 509], score)]
    before, after = at(truth, found_of(rows), RATES, strict), at(truth, found_of(more), RATES, strict)
    assert all(a <= b + 1e-12 for a, b in zip(after, before, strict=True))


@settings(deadline=None)
@given(images)
def test_perfect_detections_find_everything(lesions):
    rows = [(i, lesion, 0.5) for i, found in enumerate(lesions) for lesion in found]
    assert at(truth_of(lesions), found_of(rows), RATES) == [1] * len(RATES)


@settings(deadline=None)
@given(cases())
def test_the_threshold_keeps_the_rate_and_is_the_lowest_to_do_so(case):
    truth, rows = case
    found = found_of(rows)
    events = pooled_events(truth, found, overlapping_pairs(truth, found))
    for rate, limit in zip(RATES, thresholds(events, np.array(RATES)), strict=True):
        allowed = rate * len(truth.images) + 1e-9
        for score in set(found.scores):
            kept = (events.false_scores >= score).sum()
            assert (kept <= allowed) == (not np.isnan(limit) and score >= limit)
