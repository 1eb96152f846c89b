"""Slices as pictures for the report: found, missed and wrongly marked at one score threshold (paper, Figs. 3, 4)."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from lesionpipe.data.stored.geometry import to_stored
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.evaluate.froc import Matches
from lesionpipe.evaluate.split import SplitResult
from lesionpipe.evaluate.truth import Detections, Truth

DISPLAY_WINDOWS = {"soft tissue": (-160, 240), "lung": (-1350, 150), "bone": (-500, 1050)}  # HU
WEBP_QUALITY = 82


@dataclass(frozen=True)
class Pictures:
    """What the shown split's slices look like; positions are those of its `truth` and `detections`."""

    slices: Callable[[int], np.ndarray]  # position of an image -> int16 HU slice (S, S)
    lesion_boxes: np.ndarray  # (lesions, 4) in px of the stored slice
    detection_boxes: np.ndarray  # (detections, 4)
    heat: dict[str, np.ndarray]  # file name -> mask probability uint8 (s, s); empty without a mask branch


def pictures_of(result: SplitResult, store: SliceStore, heatmaps: dict[str, np.ndarray]) -> Pictures:
    """The middle slices, boxes on the stored grid and mask heatmaps of a split.

    Args:
        store: of all splits.
        heatmaps: `read_heatmaps`.
    """
    rows = pd.Index(store.index["file_name"]).get_indexer(result.truth.images)
    scales = store.index[["scale_x", "scale_y"]].to_numpy()[rows]

    def stored(boxes: np.ndarray, images: np.ndarray) -> np.ndarray:
        return to_stored(boxes, scales[images, 0], scales[images, 1])

    def middle_slice(image: int) -> np.ndarray:
        stack = store.slices(int(rows[image]))
        return stack[len(stack) // 2]

    return Pictures(
        middle_slice,
        stored(result.truth.lesion_boxes, result.truth.lesion_images),
        stored(result.detections.boxes, result.detections.images),
        heatmaps,
    )


@dataclass(frozen=True)
class Verdict:
    """What happened on one image at the operating point."""

    image: int  # position in Truth.images
    lesions: np.ndarray  # (k,) positions of its lesions
    found: np.ndarray  # (k,) bool
    detections: np.ndarray  # (m,) positions of the kept detections, best first
    hit: np.ndarray  # (m,) bool: overlaps a lesion enough

    @property
    def misses(self) -> int:
        return int((~self.found).sum())

    def worst_false_positive(self, scores: np.ndarray) -> float:
        """Highest score of a false positive here, 0 where there is none."""
        return float(scores[self.detections[~self.hit]].max(initial=0.0))


def verdicts(truth: Truth, detections: Detections, matches: Matches, threshold: float) -> list[Verdict]:
    """One verdict per image for the detections with a score of at least `threshold` (NaN keeps none)."""
    kept = detections.scores >= threshold
    found = np.zeros(len(truth.lesion_images), dtype=bool)
    found[matches.lesion[kept[matches.detection]]] = True
    hit = np.zeros(len(kept), dtype=bool)
    hit[matches.detection] = True
    order = np.flatnonzero(kept)[np.argsort(-detections.scores[kept], kind="stable")]
    lesions_at = _grouped(np.arange(len(found)), truth.lesion_images, len(truth.images))
    detections_at = _grouped(order, detections.images[order], len(truth.images))
    return [
        Verdict(i, lesions, found[lesions], marks, hit[marks])
        for i, (lesions, marks) in enumerate(zip(lesions_at, detections_at, strict=True))
    ]


def choose_slices(all_verdicts: Sequence[Verdict], scores: np.ndarray, strata: pd.Series, wanted: int) -> list[Verdict]:
    """At most `wanted` slices to look at: a third misses, a third the worst false positives, the rest hits.

    Args:
        strata: a label per lesion (type and size); hits are taken from the strata in turn.
    """
    third = max(wanted // 3, 1) if wanted else 0
    by_misses = sorted((v for v in all_verdicts if v.misses), key=lambda v: (-v.misses, v.image))
    by_false = sorted(all_verdicts, key=lambda v: (-v.worst_false_positive(scores), v.image))
    by_false = [v for v in by_false if v.worst_false_positive(scores) > 0]
    hits = _in_turn([v for v in all_verdicts if v.found.any()], strata)
    chosen = {v.image: v for v in (*by_misses[:third], *by_false[:third])}
    for verdict in (*hits, *by_misses, *by_false, *all_verdicts):
        if len(chosen) >= wanted:
            break
        chosen.setdefault(verdict.image, verdict)
    return list(chosen.values())[:wanted]


def grey_levels(hu: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 picture of HU between `low` (black) and `high` (white)."""
    return np.rint(np.clip((hu.astype(np.float32) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def slice_pictures(hu: np.ndarray) -> dict[str, str]:
    """A slice (S, S) in each window, as data addresses that need no file beside the page."""
    return {name: _data_url(grey_levels(hu, low, high), ".webp") for name, (low, high) in DISPLAY_WINDOWS.items()}


def heat_picture(probability: np.ndarray) -> str:
    """Mask probability (s, s) uint8 as a transparent overlay: the likelier lesion, the more opaque."""
    colours = cv2.applyColorMap(probability, cv2.COLORMAP_JET)  # (s, s, 3) BGR
    return _data_url(np.dstack([colours, (probability * 0.7).astype(np.uint8)]), ".png")


def _data_url(image: np.ndarray, kind: str) -> str:
    options = [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY] if kind == ".webp" else []
    _, coded = cv2.imencode(kind, image, options)
    return f"data:image/{kind[1:]};base64,{base64.b64encode(coded.tobytes()).decode()}"


def _grouped(values: np.ndarray, groups: np.ndarray, count: int) -> list[np.ndarray]:
    """`values` split by group number, in their order."""
    order = np.argsort(groups, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(groups, minlength=count))[:-1]) if count else []


def _in_turn(hits: list[Verdict], strata: pd.Series) -> list[Verdict]:
    """Verdicts with hits so that the strata of their first found lesion alternate."""
    labels = [strata.iloc[v.lesions[v.found][0]] for v in hits]
    turn = pd.Series(labels, dtype=object).groupby(labels).cumcount() if hits else []
    return [hits[i] for i in np.lexsort((labels, turn))] if hits else []
