"""Slices for the report: found, missed and wrongly marked at one score threshold (paper, Figs. 3, 4)."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from lesionpipe.data.stored.slices import SliceStore, to_stored
from lesionpipe.evaluate.froc import Matches, thresholds
from lesionpipe.evaluate.split import SplitResult
from lesionpipe.evaluate.truth import Detections, Truth

DISPLAY_WINDOWS = {"soft tissue": (-160, 240), "lung": (-1350, 150), "bone": (-500, 1050)}  # HU
WEBP_QUALITY = 82


@dataclass(frozen=True)
class Verdict:
    """What happened on one image at the operating point."""

    image: int  # position in Truth.images
    lesions: np.ndarray  # (k,) positions of its lesions
    found: np.ndarray  # (k,) bool
    detections: np.ndarray  # (m,) positions of the kept detections, best first
    hit: np.ndarray  # (m,) bool: overlaps a lesion enough
    worst: float  # highest score of a false positive, 0 where there is none

    @property
    def misses(self) -> int:
        return int((~self.found).sum())


def gallery(
    shown: SplitResult, store: SliceStore, heatmaps: dict[str, np.ndarray], operating_fp: float, wanted: int
) -> dict:
    """The template's values for at most `wanted` slices at so many false positives per image."""
    threshold = float(thresholds(shown.scores.events, [operating_fp])[0])
    judged = verdicts(shown.truth, shown.detections, shown.scores.matches, threshold)
    groups = np.select(list(shown.size_groups.values()), list(shown.size_groups), "")
    strata = shown.lesions["type"].astype(str) + " " + groups
    rows = pd.Index(store.index["file_name"]).get_indexer(shown.truth.images)
    cards = []
    for verdict in choose_slices(judged, strata, wanted):
        name, row = shown.truth.images[verdict.image], int(rows[verdict.image])
        stack, scale = store.slices(row), store.index.loc[row, ["scale_x", "scale_y"]]
        hu = stack[len(stack) // 2]
        card = {
            "file_name": name,
            "side": hu.shape[-1],
            "windows": slice_pictures(hu),
            "heat": heat_picture(heatmaps[name]) if name in heatmaps else None,
        }
        cards.append(card | _marks(verdict, shown, groups, scale))
    return {"threshold": threshold, "slices": len(judged), "cards": cards}


def verdicts(truth: Truth, detections: Detections, matches: Matches, threshold: float) -> list[Verdict]:
    """One verdict per image for the detections with a score of at least `threshold` (NaN keeps none)."""
    scores = detections.scores
    kept = np.flatnonzero(scores >= threshold)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    found, hit = np.zeros(len(truth.lesion_images), dtype=bool), np.zeros(len(scores), dtype=bool)
    found[matches.lesion[scores[matches.detection] >= threshold]] = True
    hit[matches.detection] = True
    lesions_of, kept_of = (_of_images(images, truth) for images in (truth.lesion_images, detections.images[kept]))
    judged = []
    for image, (lesions, marks) in enumerate(zip(lesions_of, (kept[of_image] for of_image in kept_of), strict=True)):
        worst = float(scores[marks[~hit[marks]]].max(initial=0.0))
        judged.append(Verdict(image, lesions, found[lesions], marks, hit[marks], worst))
    return judged


def _of_images(images: np.ndarray, truth: Truth) -> list[np.ndarray]:
    """Of things on the `images` (n,) the positions that lie on each image of the truth, in their order."""
    order, count = np.argsort(images, kind="stable"), len(truth.images)
    return np.split(order, np.searchsorted(images[order], np.arange(1, count)))[:count]


def choose_slices(judged: Sequence[Verdict], strata: pd.Series, wanted: int) -> list[Verdict]:
    """At most `wanted` slices to look at: a third misses, a third the worst false positives, the rest hits.

    Hits are taken in turn from the `strata`, a label per lesion (type and size), of their first found lesion.
    """
    third = max(wanted // 3, 1) if wanted else 0
    by_misses = sorted((v for v in judged if v.misses), key=lambda v: -v.misses)
    by_false = sorted((v for v in judged if v.worst > 0), key=lambda v: -v.worst)
    hits = [v for v in judged if v.found.any()]
    labels = pd.DataFrame({"label": [strata.iloc[v.lesions[v.found][0]] for v in hits]})
    turns = labels.assign(turn=labels.groupby("label").cumcount()).sort_values(["turn", "label"], kind="stable").index
    chosen = {v.image: v for v in (*by_misses[:third], *by_false[:third])}
    for verdict in (*(hits[i] for i in turns), *by_misses, *by_false, *judged):
        if len(chosen) >= wanted:
            break
        chosen.setdefault(verdict.image, verdict)
    return list(chosen.values())[:wanted]


def _marks(verdict: Verdict, shown: SplitResult, groups: np.ndarray, scale: Sequence[float]) -> dict:
    """What the page's script draws over one slice and filters it by; boxes in px of the stored slice."""
    lesions, detections, rows = [], [], shown.lesions.iloc[verdict.lesions]
    boxes = _corners(shown.truth.lesion_boxes[verdict.lesions], scale)
    for box, found, group, row in zip(boxes, verdict.found, groups[verdict.lesions], rows.itertuples(), strict=True):
        mm = round(row.long_diameter_mm, 1) if math.isfinite(row.long_diameter_mm) else None
        size = "size unknown" if mm is None else f"{row.long_diameter_mm:.1f} mm"
        lesion = {"box": box, "found": bool(found), "group": group, "type": str(row.type), "mm": mm, "size": size}
        lesions.append(lesion)
    boxes = _corners(shown.detections.boxes[verdict.detections], scale)
    scores = shown.detections.scores[verdict.detections]
    for box, score, hit in zip(boxes, scores, verdict.hit, strict=True):
        detections.append({"box": box, "score": round(float(score), 3), "hit": bool(hit)})
    return {"lesions": lesions, "detections": detections}


def _corners(boxes: np.ndarray, scale: Sequence[float]) -> list[list[float]]:
    return [[round(value, 2) for value in box] for box in to_stored(boxes, *scale).tolist()]


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
