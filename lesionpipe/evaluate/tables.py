"""Tables that `dvc plots` draws: the FROC curve with its band, and sensitivity per group of lesions."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from lesionpipe.evaluate.bootstrap import percentile_interval, resample_sensitivity
from lesionpipe.evaluate.froc import Events, Matches, pooled_events, sensitivity, thresholds
from lesionpipe.evaluate.scores import Scores
from lesionpipe.evaluate.truth import Detections, Truth

STEPS_PER_OCTAVE = 8  # points per doubling of the rate
OCTAVES = (-3, 4)  # 0.125 … 16 false positives per image


def curve_rates(end: float) -> np.ndarray:
    """Rates of the plotted curve, evenly spaced on a log-2 axis: 0.125 … 16, and up to 32 as far as its `end`."""
    steps = np.arange(OCTAVES[0] * STEPS_PER_OCTAVE, (OCTAVES[1] + 1) * STEPS_PER_OCTAVE + 1)
    rates = 2.0 ** (steps / STEPS_PER_OCTAVE)
    return rates[rates <= max(end, 2.0 ** OCTAVES[1])]


def froc_table(split: str, scores: Scores, draws: Iterable[np.ndarray]) -> pd.DataFrame:
    """The curve thinned for plotting: split, fps_per_image, sensitivity, low, high, strict_sensitivity, threshold.

    Beyond the end of the curve its last sensitivity stays, as in the rule; undefined cells are empty.
    """
    events = scores.events
    rates = curve_rates(len(events.false_scores) / max(scores.images, 1))
    strict, at_score = sensitivity(scores.strict_events, rates), thresholds(events, rates)
    table = pd.DataFrame({"split": split, **_curve(events, rates, draws)})
    return table.assign(strict_sensitivity=strict, threshold=at_score)


def group_table(
    split: str,
    truth: Truth,
    detections: Detections,
    matches: Matches,
    groups: dict[str, np.ndarray],
    rates: Sequence[float],
    draws: Iterable[np.ndarray],
) -> pd.DataFrame:
    """Sensitivity of each group at each rate: split, group, lesions, fps_per_image, sensitivity, low, high.

    A group without lesions is listed with empty numbers.
    """
    at = np.array(rates, dtype=np.float64)
    tables = []
    for name, mask in groups.items():
        curve = _curve(pooled_events(truth, detections, matches, mask), at, draws)
        tables.append(pd.DataFrame({"split": split, "group": name, "lesions": int(mask.sum()), **curve}))
    return pd.concat(tables, ignore_index=True)


def _curve(events: Events, rates: np.ndarray, draws: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    low, high = percentile_interval(resample_sensitivity(events, rates, draws))
    return {"fps_per_image": rates, "sensitivity": sensitivity(events, rates), "low": low, "high": high}
