"""One split, from the pipeline's tables to the numbers and plotted tables that `stages/evaluate.py` writes.

Groups of lesions are scored apart, the published way: the lesions of the group against **all** detections on **all**
evaluated images. A detection of a lesion of another group is therefore a false positive, and the curves of the groups
don't average to the whole one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lesionpipe.data.detections import DETECTIONS
from lesionpipe.data.size_groups import by_size
from lesionpipe.data.stored.schema import TYPES
from lesionpipe.evaluate.bootstrap import PatientDraws, percentile_interval, resample_sensitivity
from lesionpipe.evaluate.froc import Events, pooled_events, sensitivity, thresholds
from lesionpipe.evaluate.scores import Scores, flat_metrics, score_detections
from lesionpipe.evaluate.truth import Detections, Truth, detections_of_split, truth_of_split
from lesionpipe.params.sections import Evaluate

INTERVAL_EDGE_MM = 2.5  # between thin and thick slices
UNKNOWN = "unknown"  # the group of the lesions of which the property is not known


@dataclass(frozen=True)
class SplitResult:
    """All that is known of one split; `lesions` are the rows of data/lesions.csv in the order of `truth`."""

    split: str
    truth: Truth
    lesions: pd.DataFrame
    detections: Detections
    scores: Scores
    curve: pd.DataFrame  # split, fps_per_image, sensitivity, low, high, strict_sensitivity, threshold
    groups: dict[str, pd.DataFrame]  # by size, type, interval: split, group, lesions, fps_per_image, …, high
    size_groups: dict[str, np.ndarray]  # name -> (lesions,) bool

    @property
    def noisy_lesions(self) -> int:
        """Evaluated lesions marked Possibly_noisy."""
        return int((self.lesions["noisy"] == 1).sum())

    def metrics(self) -> dict[str, float | int | None]:
        """Flat numbers of metrics/scores.json."""
        return flat_metrics(self.scores) | {"noisy_lesions": self.noisy_lesions}


def evaluate_split(
    split: str, index: pd.DataFrame, lesions: pd.DataFrame, found: pd.DataFrame, settings: Evaluate
) -> SplitResult:
    """Score the detections of one split; a UserError where slices, lesions and detections don't go together.

    `index` has a row per evaluated slice (`SliceStore.index`), `lesions` are the rows of data/lesions.csv that count,
    `found` those of data/detections.csv on the evaluated slices.
    """
    truth, rows = truth_of_split(index, lesions, split)
    detections = detections_of_split(found, truth, split, DETECTIONS)
    draws = PatientDraws(truth.patient_count, settings.bootstrap, settings.seed)
    scores = score_detections(truth, detections, settings.fp_rates, settings.iou, draws)
    masks, tables = lesion_groups(rows, settings.size_edges_mm), {}
    for kind, groups in masks.items():
        curves = []
        for name, group in groups.items():
            events = pooled_events(truth, detections, scores.matches, group)
            labels = {"split": split, "group": name, "lesions": int(group.sum())}
            curves.append(_curve(labels, events, settings.fp_rates, draws))
        tables[kind] = pd.concat(curves, ignore_index=True)
    return SplitResult(split, truth, rows, detections, scores, _plotted(split, scores, draws), tables, masks["size"])


def main_split(results: Sequence[SplitResult]) -> SplitResult:
    """The split whose groups and slices the report shows: test, or else the last."""
    return next((result for result in results if result.split == "test"), results[-1])


def lesion_groups(lesions: pd.DataFrame, size_edges_mm: Sequence[float]) -> dict[str, dict[str, np.ndarray]]:
    """Masks (lesions,) bool of the groups by size (paper, Fig. 2), by coarse type and by slice interval."""
    kinds = {
        "size": by_size(lesions["long_diameter_mm"], size_edges_mm),
        "type": {name: (lesions["type"] == name).to_numpy() for name in TYPES},
        "interval": by_size(lesions["slice_interval_mm"], [INTERVAL_EDGE_MM]),
    }
    for groups in kinds.values():
        if (rest := ~np.logical_or.reduce(list(groups.values()))).any():
            groups[UNKNOWN] = rest
    return kinds


def curve_rates(end: float) -> np.ndarray:
    """Rates of the plotted curve, 8 per octave: 0.125 … 16 false positives per image, to 32 as far as its `end`."""
    rates = 2.0 ** (np.arange(-3 * 8, 5 * 8 + 1) / 8)
    return rates[rates <= max(end, 16)]


def _plotted(split: str, scores: Scores, draws: Iterable[np.ndarray]) -> pd.DataFrame:
    """The curve thinned for plotting. Beyond its end the last sensitivity stays, as in the rule."""
    rates = curve_rates(len(scores.events.false_scores) / max(scores.sizes["images"], 1))
    curve = _curve({"split": split}, scores.events, rates, draws)
    strict = sensitivity(scores.strict_events, rates)
    return curve.assign(strict_sensitivity=strict, threshold=thresholds(scores.events, rates))


def _curve(labels: dict, events: Events, rates: Sequence[float], draws: Iterable[np.ndarray]) -> pd.DataFrame:
    """A row per rate with the interval of its sensitivity; undefined cells (no lesions) are NaN."""
    low, high = percentile_interval(resample_sensitivity(events, rates, draws))
    columns = {"fps_per_image": rates, "sensitivity": sensitivity(events, rates), "low": low, "high": high}
    return pd.DataFrame(labels | columns)
