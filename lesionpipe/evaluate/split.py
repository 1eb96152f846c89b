"""One split, from the pipeline's tables to the numbers and plotted tables that `stages/evaluate.py` writes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lesionpipe.evaluate.bootstrap import PatientDraws
from lesionpipe.evaluate.froc import Matches, overlapping_pairs
from lesionpipe.evaluate.scores import Scores, flat_metrics, score_detections
from lesionpipe.evaluate.strata import interval_strata, size_strata, type_strata
from lesionpipe.evaluate.tables import froc_table, group_table
from lesionpipe.evaluate.truth import Detections, Truth, detections_of_split, truth_of_split


@dataclass(frozen=True)
class ScoringSettings:
    """How detections are scored."""

    iou: float  # overlap of a hit
    fp_rates: tuple[float, ...]  # false positives per image, rising
    size_edges_mm: tuple[float, ...]
    bootstrap: int  # draws of patients; 0: no intervals
    seed: int


@dataclass(frozen=True)
class SplitResult:
    """All that is known of one split; `lesions` are the rows of data/lesions.csv in the order of `truth`."""

    split: str
    truth: Truth
    lesions: pd.DataFrame
    detections: Detections
    matches: Matches
    scores: Scores
    curve: pd.DataFrame
    groups: dict[str, pd.DataFrame]  # size, type, interval: sensitivity of each group
    size_groups: dict[str, np.ndarray]  # name -> (lesions,) bool

    @property
    def noisy_lesions(self) -> int:
        """Evaluated lesions marked Possibly_noisy."""
        return int((self.lesions["noisy"] == 1).sum())

    def metrics(self) -> dict[str, float | int | None]:
        """Flat numbers of metrics/scores.json."""
        return flat_metrics(self.scores) | {"noisy_lesions": self.noisy_lesions}


def evaluate_split(
    split: str,
    index: pd.DataFrame,
    lesions: pd.DataFrame,
    found: pd.DataFrame,
    settings: ScoringSettings,
    source: str = "data/detections.csv",
) -> SplitResult:
    """Score the detections of one split.

    Args:
        index: one row per evaluated slice (`SliceStore.index`).
        lesions: rows of data/lesions.csv that count.
        found: rows of data/detections.csv on the evaluated slices; `source` names the file in messages.

    Raises:
        UserError: slices, lesions and detections don't go together.
    """
    truth, rows = truth_of_split(index, lesions, split)
    detections = detections_of_split(found, truth, split, source)
    draws = PatientDraws(truth.patient_count, settings.bootstrap, settings.seed)
    pairs = overlapping_pairs(truth, detections, settings.iou)
    scores = score_detections(truth, detections, settings.fp_rates, settings.iou, draws)
    sizes = size_strata(rows, settings.size_edges_mm)
    kinds = {"size": sizes, "type": type_strata(rows), "interval": interval_strata(rows)}
    groups = {
        kind: group_table(split, truth, detections, pairs, masks, settings.fp_rates, draws)
        for kind, masks in kinds.items()
    }
    curve = froc_table(split, scores, draws)
    return SplitResult(split, truth, rows, detections, pairs, scores, curve, groups, sizes)


def main_split(results: Sequence[SplitResult]) -> SplitResult:
    """The split whose groups and slices the report shows: test, or else the last."""
    return next((result for result in results if result.split == "test"), results[-1])
