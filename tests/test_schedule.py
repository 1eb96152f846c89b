"""The learning rate, and when training ends."""

import math

import pytest

from lesionpipe.train.schedule import Schedule, best_epoch, learning_rate, should_stop


def plateau(**changes) -> Schedule:
    """The paper's schedule, without warm-up."""
    values = {"epochs": 50, "learning_rate": 1e-4, "warmup_epochs": 0.0}
    patience = {"lr_patience": 2, "lr_factor": 0.1, "early_stopping_patience": 4}
    return Schedule(**{"schedule": "plateau", **values, **patience, **changes})


def test_plateau_drops_the_rate_after_two_epochs_without_a_better_map():
    for scores, expected in [
        ([], 1e-4),
        ([0.1, 0.2, 0.2], 1e-4),  # equal is not better
        ([0.1, 0.2, 0.2, 0.1], 1e-5),
        ([0.1, 0.2, 0.2, 0.1, 0.3, 0.3], 1e-5),
        ([0.1, 0.2, 0.2, 0.1, 0.1, 0.1], 1e-6),
    ]:
        assert learning_rate(plateau(), scores, len(scores)) == pytest.approx(expected)


def test_plateau_stops_after_four_epochs_without_a_better_map():
    assert not should_stop(plateau(), [])
    assert not should_stop(plateau(), [0.1, 0.3, 0.3, 0.2, 0.1])
    assert should_stop(plateau(), [0.1, 0.3, 0.3, 0.2, 0.1, 0.2])
    assert should_stop(plateau(epochs=3), [0.1, 0.2, 0.3])


def test_cosine_rises_then_falls_to_nothing_and_never_stops_early():
    cosine = plateau(schedule="cosine", learning_rate=1e-3, epochs=5, warmup_epochs=1.0)
    rates = [learning_rate(cosine, [], passed) for passed in (0.25, 1, 2, 3, 5)]
    expected = [0.00025, 0.001, 0.001 * (1 + math.cos(math.pi / 4)) / 2, 0.0005, 0]
    assert rates == pytest.approx(expected)
    assert not should_stop(cosine, [0.5, 0.1, 0.1, 0.1])


def test_best_epoch_is_the_first_of_equals():
    assert best_epoch([0.1, 0.4, 0.2, 0.4]) == 1
