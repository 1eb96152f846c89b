"""Several seeds per row: worked cases of means, spread and draws, and what always holds for intervals and steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_froc import BOX, FAR, cases, found_of, truth_of

from lesionpipe.evaluate.bootstrap import PatientDraws, percentile_interval, resample_sensitivity, two_sided_p
from lesionpipe.evaluate.comparison import (
    SeededRuns,
    compare_rows,
    deviation_of_drawn_seeds,
    draw_seeds,
    score_runs,
    summarise_row,
)
from lesionpipe.evaluate.froc import overlapping_pairs, pooled_events

TWO_PATIENTS = truth_of([[BOX], [BOX]])
BOTH, FIRST, NEITHER = (found_of([(i, BOX, 0.9) for i in images] + [(0, FAR, 0.1)]) for images in ([0, 1], [0], []))
THREE_SEEDS = {0: BOTH, 1: FIRST, 2: NEITHER}
DRAWS = np.array([[2, 0], [0, 2], [1, 1]])  # of the two patients


def scored(runs, draws=DRAWS, truth=TWO_PATIENTS):
    return score_runs(truth, runs, (1.0,), 0.5, draws)


def test_three_seeds_and_two_patients_by_hand():
    """Of two lesions, seed 0 finds both, seed 1 that of the first patient, seed 2 none: mean 1/2, spread 1/2."""
    runs = scored(THREE_SEEDS)
    assert runs.sensitivities[:, 0].tolist() == [1, 0.5, 0]
    assert runs.average_precisions.tolist() == [1, 0.5, 0]
    # The first patient twice: found by seeds 0 and 1. The second twice: by seed 0 alone. Each once: as observed.
    assert runs.resampled[:, :, 0].tolist() == [[1, 1, 0], [1, 0, 0], [1, 0.5, 0]]
    summary = summarise_row(runs, seed=0)
    assert (summary.seeds, summary.mean.tolist(), summary.spread.tolist()) == ((0, 1, 2), [0.5], [0.5])
    assert (summary.average_precision, summary.average_precision_spread) == (0.5, 0.5)


def test_the_deviation_of_drawn_seeds_by_hand():
    """Seeds 1, 1/2, 0: seed 0 thrice deviates by 1/2, times sqrt(3 / 2); each once by nothing."""
    values = np.array([[1.0], [0.5], [0.0]])
    counts = np.array([[3, 0, 0], [1, 1, 1], [0, 1, 2]])
    expected = [0.5 * np.sqrt(1.5), 0, (0.5 / 3 - 0.5) * np.sqrt(1.5)]
    assert deviation_of_drawn_seeds(values, counts)[:, 0] == pytest.approx(expected)
    assert deviation_of_drawn_seeds(values[:1], np.array([[1], [1]])).tolist() == [[0], [0]]


def test_drawn_seeds_vary_as_the_mean_of_new_trainings_would():
    """Values 1, 2, 6: their variance is 7, that of the mean of three trainings 7 / 3."""
    counts = draw_seeds(3, 20_000, seed=0)
    assert counts.shape == (20_000, 3) and (counts.sum(axis=1) == 3).all()
    deviation = deviation_of_drawn_seeds(np.array([[1.0], [2.0], [6.0]]), counts)
    assert deviation.mean() == pytest.approx(0, abs=0.05) and deviation.var() == pytest.approx(7 / 3, rel=0.05)


def test_seeds_and_patients_are_drawn_independently_and_repeatably():
    patients = np.array(list(PatientDraws(3, 4000, seed=5)))
    seeds = draw_seeds(3, 4000, seed=5)
    assert abs(np.corrcoef(patients[:, 0], seeds[:, 0])[0, 1]) < 0.05
    assert (seeds == draw_seeds(3, 4000, seed=5)).all() and (seeds != draw_seeds(3, 4000, seed=6)).any()


def test_a_step_by_hand():
    """Seeds 0, 1, 2 find 1, 1/2, 0 before and 1, 1, 1/2 after: differences 0, 1/2, 1/2, mean 1/3."""
    many = PatientDraws(2, 500, 0)
    before, after = scored(THREE_SEEDS, many), scored({0: BOTH, 1: BOTH, 2: FIRST}, many)
    step = compare_rows(before, after, seed=0)
    assert step.seeds == (0, 1, 2) and step.difference == pytest.approx([1 / 3])
    assert step.low < step.difference < step.high
    back = compare_rows(after, before, seed=0)
    assert (back.difference, back.low, back.high) == (-step.difference, -step.high, -step.low)
    assert back.p == step.p


def test_only_seeds_that_both_rows_have_are_compared():
    before, after = scored(THREE_SEEDS), scored({4: BOTH, 2: FIRST, 1: BOTH})
    step = compare_rows(before, after, seed=0)
    assert step.seeds == (1, 2) and step.difference == pytest.approx([0.5])  # 1 - 1/2 and 1/2 - 0
    none = compare_rows(before, scored({7: BOTH}), seed=0)
    assert none.seeds == () and np.isnan([none.difference, none.low, none.high, none.p]).all()


@settings(deadline=None, max_examples=40)
@given(st.lists(cases(), min_size=1, max_size=1), st.integers(1, 4))
def test_identical_rows_have_no_difference(found, seeds):
    truth, rows = found[0]
    runs = {n: found_of(rows[n:]) for n in range(seeds)}
    row = score_runs(truth, runs, (0.5, 4.0), 0.5, PatientDraws(truth.patient_count, 30, 0))
    step = compare_rows(row, row, seed=0)
    defined = ~np.isnan(row.sensitivities[0])
    assert (np.stack([step.difference, step.low, step.high])[:, defined] == 0).all() and (step.p[defined] == 1).all()


def test_with_one_seed_it_is_the_paired_bootstrap_over_patients():
    truth = truth_of([[BOX]] * 40)
    a, b = (found_of([(i, BOX, 0.9) for i in range(40) if i % n]) for n in (2, 3))
    draws = PatientDraws(40, 200, 0)
    one, other = (scored({0: found}, draws, truth) for found in (a, b))
    events = [pooled_events(truth, found, overlapping_pairs(truth, found)) for found in (a, b)]
    first, second = (resample_sensitivity(e, np.array([1.0]), draws) for e in events)
    step = compare_rows(one, other, seed=0)
    assert step.difference == pytest.approx([26 / 40 - 20 / 40])  # B misses every third, A every second
    assert np.array([step.low, step.high]) == pytest.approx(np.array(percentile_interval(second - first)))
    assert step.p == pytest.approx(two_sided_p(second - first))
    summary = summarise_row(one, seed=0)
    assert (summary.low, summary.high) == percentile_interval(one.resampled[:, 0]) and np.isnan(summary.spread)


def chance_runs(rng, seeds, spread, patients=60, draws=200):
    """Runs that find each of `patients` lesions with a probability of 0.7, a little more or less for each seed."""
    found = rng.random((seeds, patients)) < 0.7 + spread * rng.standard_normal((seeds, 1))
    weights = np.array(list(PatientDraws(patients, draws, 0)))
    resampled = (weights @ found.T / patients)[:, :, None]
    means = found.mean(axis=1, keepdims=True)
    return SeededRuns(tuple(range(seeds)), means, means[:, 0], resampled)


@pytest.mark.parametrize("spread", [0, 0.05])
def test_the_interval_is_on_average_wider_than_that_of_the_patients(spread):
    rng = np.random.default_rng(0)
    both, patients = [], []
    for _ in range(60):
        runs = chance_runs(rng, 3, spread)
        summary = summarise_row(runs, seed=0)
        low, high = percentile_interval(runs.resampled.mean(axis=1))
        both.append(summary.high - summary.low)
        patients.append(high - low)
    assert np.mean(both) > (1.1 if spread == 0 else 1.3) * np.mean(patients)


def test_rows_that_differ_by_chance_alone_are_seldom_told_apart():
    """Of 200 steps without effect, 5 points between seeds, 3.5 % have p < 0.05; tested on patients alone 13 %."""
    rng = np.random.default_rng(0)
    both, patients = [], []
    for _ in range(200):
        before, after = chance_runs(rng, 3, 0.05), chance_runs(rng, 3, 0.05)
        both.append(compare_rows(before, after, seed=0).p[0])
        patients.append(two_sided_p((after.resampled - before.resampled).mean(axis=1))[0])
    assert np.mean(np.array(both) < 0.05) <= 0.07 and np.mean(np.array(patients) < 0.05) >= 0.1


def test_a_large_step_is_found():
    rng = np.random.default_rng(0)
    before = chance_runs(rng, 3, 0.02)
    after = SeededRuns(before.seeds, before.sensitivities + 0.1, before.average_precisions, before.resampled + 0.1)
    step = compare_rows(before, after, seed=0)
    assert step.difference == pytest.approx([0.1]) and step.low == pytest.approx([0.1]) and step.p < 0.01


def test_without_draws_intervals_are_undefined():
    runs = scored(THREE_SEEDS, draws=[])
    summary, step = summarise_row(runs, 0), compare_rows(runs, runs, 0)
    assert summary.mean.tolist() == [0.5] and np.isnan([summary.low, summary.high, step.low, step.p]).all()
