"""GrabCut from a trimap, guarded: a mask, or the reason why there is none (paper, sec. 2.2; Rother et al. 2004).

OpenCV's GrabCut asserts when a seed set is empty or its colours are degenerate, and may answer with scraps or with all it is
given. Here every such case comes out as a `Failure` with a reason that the caller records.
"""

from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from lesionpipe.weak_labels.recist import BACKGROUND, FOREGROUND, UNKNOWN

SEED = 0  # of the k-means that starts the intensity mixtures
DEFAULT_WINDOW_HU = (-175.0, 275.0)  # that of three quarters of DeepLesion, where a lesion has none
FINE_SIDE_PX = 48  # pixels are divided until the box is this many wide and high
FINEST = 8  # but not further


class Failure(NamedTuple):
    reason: str


class Crop(NamedTuple):
    """A rectangle of whole px: first column and row, width and height."""

    x0: int
    y0: int
    width: int
    height: int


def crop_around(box: np.ndarray, margin: float, side: int) -> Crop:
    """The box xyxy and `margin` times its sides on each side of it, cut to a slice of `side` px."""
    reach = margin * (box[2:] - box[:2])
    x0, y0 = np.clip(np.floor(box[:2] - reach), 0, side - 1).astype(int)
    x1, y1 = np.clip(np.ceil(box[2:] + reach), 0, side - 1).astype(int)
    return Crop(int(x0), int(y0), int(x1 - x0 + 1), int(y1 - y0 + 1))


def fineness(box: np.ndarray) -> int:
    """Into how many parts to divide a px along each axis, so that the box is FINE_SIDE_PX wide and high.

    GrabCut charges for the length of an outline; where a lesion is a few px wide, that outweighs its intensities and the
    mask shrinks to its seeds. On a finer grid the same outline weighs less beside the area.
    """
    shorter = float(np.min(box[2:] - box[:2]))
    return int(np.clip(np.ceil(FINE_SIDE_PX / max(shorter, 1.0)), 1, FINEST))


def windowed(hu: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """HU in a DICOM window (low, high) as float32 in 0–255; an unknown or falling window is DEFAULT_WINDOW_HU."""
    low, high = window
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        low, high = DEFAULT_WINDOW_HU
    return np.clip((hu.astype(np.float32) - low) * (255 / (high - low)), 0, 255)


def refined(image: np.ndarray, factor: int) -> np.ndarray:
    """float32 0–255 (h, w) as uint8 (h · factor, w · factor), cubic between the pixels."""
    if factor > 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def coarsened(mask: np.ndarray, factor: int) -> np.ndarray:
    """Bool (h · factor, w · factor) as (h, w): pixels at least half covered or, if there is none, the most covered ones."""
    height, width = mask.shape[0] // factor, mask.shape[1] // factor
    cover = mask.reshape(height, factor, width, factor).mean(axis=(1, 3))
    return cover >= min(0.5, cover.max()) if mask.any() else np.zeros((height, width), bool)


def segment(image: np.ndarray, trimap: np.ndarray, likely: np.ndarray, iterations: int) -> np.ndarray | Failure:
    """GrabCut of the unknown pixels.

    Args:
        image: uint8 (h, w).
        trimap: uint8 (h, w) of BACKGROUND, FOREGROUND, UNKNOWN.
        likely: bool (h, w): unknown pixels that start as foreground, the others as background.
        iterations: of mixtures and cut.

    Returns:
        bool (h, w): the part connected to the foreground seeds, holes filled; or why there is none. The same on every
        run and for any number of threads.
    """
    seeds = trimap == FOREGROUND
    if not seeds.any():
        return Failure("no foreground seeds")
    if not (trimap == BACKGROUND).any():
        return Failure("no background seeds")
    if image.min() == image.max():
        return Failure("constant image")
    labels = np.choose(trimap, (cv2.GC_BGD, cv2.GC_FGD, cv2.GC_PR_BGD)).astype(np.uint8)
    labels[(trimap == UNKNOWN) & likely] = cv2.GC_PR_FGD
    try:
        _cut(image, labels, iterations)
    except cv2.error as error:
        return Failure(f"OpenCV: {error.err or error.code}")
    return _connected((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD), seeds)


def _cut(image: np.ndarray, labels: np.ndarray, iterations: int) -> None:
    """OpenCV's GrabCut on `labels` in place, on one thread (the processes share the cores) and with a fixed seed."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    cv2.setRNGSeed(SEED)
    try:
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), labels, None, *models, iterations, cv2.GC_INIT_WITH_MASK)
    finally:
        cv2.setNumThreads(threads)


def _connected(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The component that holds the most seeds, and so the crossing of the diameters, without holes."""
    parts, count = ndimage.label(mask)
    if count > 1:
        mask = parts == np.bincount(parts[seeds], minlength=2)[1:].argmax() + 1
    return ndimage.binary_fill_holes(mask)
