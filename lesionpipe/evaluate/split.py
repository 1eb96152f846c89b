"""One split, from the pipeline's tables to the numbers and plotted tables that `stages/evaluate.py` writes."""

from dataclasses import dataclass

import pandas as pd

from lesionpipe.evaluate.bootstrap import draw_patients
from lesionpipe.evaluate.froc import Matches, match
from lesionpipe.evaluate.scores import Scores, flat, score
from lesionpipe.evaluate.strata import by_interval, by_size, by_type
from lesionpipe.evaluate.tables import froc_table, group_table
from lesionpipe.evaluate.truth import Detections, Truth, detections_of_split, truth_of_split
from lesionpipe.params import Evaluate


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
    groups: dict[str, pd.DataFrame]  # size, type, interval

    def metrics(self) -> dict[str, float | int | None]:
        """Flat numbers, with the lesions of `Possibly_noisy` slices that were evaluated."""
        return {**flat(self.scores), "noisy_lesions": int((self.lesions["noisy"] == 1).sum())}


def evaluate_split(
    split: str,
    index: pd.DataFrame,
    lesions: pd.DataFrame,
    found: pd.DataFrame,
    settings: Evaluate,
    source: str = "data/detections.csv",
) -> SplitResult:
    """Score the detections of one split.

    Args:
        index: one row per stored key slice (`deeplesion.shards`).
        lesions: data/lesions.csv.
        found: data/detections.csv, read by `truth.read_detections`; `source` names it in messages.

    Raises:
        UserError: slices, lesions and detections don't go together.
    """
    truth, rows = truth_of_split(index, lesions, split)
    detections = detections_of_split(found, truth, split, source)
    draws = draw_patients(truth.patient_count, settings.bootstrap, settings.seed)
    matches = match(truth, detections, settings.iou)
    scores = score(truth, detections, settings.fp_rates, settings.iou, draws)
    kinds = {"size": by_size(rows, settings.size_edges_mm), "type": by_type(rows), "interval": by_interval(rows)}
    groups = {
        kind: group_table(split, truth, detections, matches, masks, settings.fp_rates, draws)
        for kind, masks in kinds.items()
    }
    return SplitResult(split, truth, rows, detections, matches, scores, froc_table(split, scores, draws), groups)
