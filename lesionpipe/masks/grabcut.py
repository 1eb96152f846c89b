"""GrabCut from a trimap, guarded: a mask, or the reason why there is none (paper, sec. 2.2; Rother et al. 2004).

OpenCV's GrabCut asserts when a seed set is empty or its colours are degenerate, and may return a few scattered pixels.
Here every such case is a `NoMask`, whose reason the caller records.
"""

import cv2
import numpy as np
from scipy import ndimage

TRIMAP_BACKGROUND, TRIMAP_FOREGROUND, TRIMAP_UNKNOWN = 0, 1, 2  # values of a trimap
OPENCV_LABELS = np.array((cv2.GC_BGD, cv2.GC_FGD, cv2.GC_PR_BGD), np.uint8)  # of those values
OPENCV_SEED = 0  # of the k-means that starts the intensity mixtures
DEFAULT_WINDOW_HU = (-175.0, 275.0)  # that of three quarters of DeepLesion, where a lesion has none
REFINED_BOX_PX = 48  # pixels are divided until the box is this many wide and high
LARGEST_REFINEMENT = 8  # but into no more parts along each axis
CLIPPED_SHARE = 0.5  # share of the unknown px that a window may clip on one side
NOISE_SIGMA_PX = 0.6  # original px: the grain of CT noise, smoothed away before the cut
SMOOTHING_SHARE = 0.2  # of the short half axis: spurs and notches narrower than this are cut off and filled


class NoMask(Exception):
    """A method gives no mask of this lesion; the message is the reason."""


def crop_around(box: np.ndarray, crop_margin: float, side: int) -> tuple[int, int, int, int]:
    """x0, y0, width and height of the box xyxy with `crop_margin` times its sides around it, cut to `side` px."""
    margin = crop_margin * (box[2:] - box[:2])
    x0, y0 = np.clip(np.floor(box[:2] - margin), 0, side - 1).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(box[2:] + margin), 0, side - 1).astype(int).tolist()
    return x0, y0, x1 - x0 + 1, y1 - y0 + 1


def refinement(box: np.ndarray) -> int:
    """Into how many parts a px is divided along each axis, so that the box is REFINED_BOX_PX wide and high.

    GrabCut penalises the length of an outline. Where a lesion is a few px wide, that outweighs its intensities, and the
    mask shrinks to its seeds; on a finer grid the same outline weighs less against the area.
    """
    shorter = float(np.min(box[2:] - box[:2]))
    return int(np.clip(np.ceil(REFINED_BOX_PX / max(shorter, 1.0)), 1, LARGEST_REFINEMENT))


def usable_window(window: tuple[float, float]) -> tuple[float, float]:
    """A DICOM window (low, high) in HU; one that is unknown or doesn't rise is DEFAULT_WINDOW_HU."""
    return window if np.isfinite(window).all() and window[0] < window[1] else DEFAULT_WINDOW_HU


def widened_window(window: tuple[float, float], hu: np.ndarray) -> tuple[float, float]:
    """The window, widened on a side where it clips more than half of the HU (n,) that are to be decided.

    Around a lung nodule a soft-tissue window is black: the edge, half way between nodule and lung, is lost.
    """
    low, high = usable_window(window)
    if len(hu) and np.mean(hu <= low) > CLIPPED_SHARE:
        low = min(low, float(np.percentile(hu, 2)))
    if len(hu) and np.mean(hu >= high) > CLIPPED_SHARE:
        high = max(high, float(np.percentile(hu, 98)))
    return low, high


def windowed(hu: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """HU in a window (low, high) as float32 in 0–255."""
    low, high = usable_window(window)
    return np.clip((hu.astype(np.float32) - low) * (255 / (high - low)), 0, 255)


def refined(image: np.ndarray, factor: int, smoothing: float) -> np.ndarray:
    """float32 0–255 (h, w) as uint8 (h · factor, w · factor): blurred by `smoothing` px, cubic between them."""
    if smoothing > 0:
        image = cv2.GaussianBlur(image, (0, 0), smoothing)
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def coarsened(mask: np.ndarray, factor: int) -> np.ndarray:
    """Bool (h · factor, w · factor) as (h, w): px at least half covered; if there is none, the most covered."""
    height, width = mask.shape
    return half_covered(mask.reshape(height // factor, factor, width // factor, factor).mean(axis=(1, 3)))


def half_covered(cover: np.ndarray) -> np.ndarray:
    """Px at least half covered, bool (h, w); where there is none, the most covered, so that no mask vanishes."""
    return (cover > 0) & (cover >= min(0.5, cover.max()))


def segment(image: np.ndarray, trimap: np.ndarray, likely: np.ndarray, iterations: int, radius: float) -> np.ndarray:
    """GrabCut of the unknown pixels, the same on every run and for any number of threads.

    Args:
        image: uint8 (h, w).
        trimap: uint8 (h, w) of TRIMAP_BACKGROUND, TRIMAP_FOREGROUND, TRIMAP_UNKNOWN.
        likely: bool (h, w): unknown pixels that start as foreground, the others as background.
        radius: of the disc that smooths the outline, px of this grid; below half a px it does nothing.

    Returns bool (h, w), the part connected to the foreground seeds, holes filled; or `NoMask` where there is nothing to
    start from, or OpenCV fails.
    """
    seeds = trimap == TRIMAP_FOREGROUND
    if not seeds.any():
        raise NoMask("no foreground seeds")
    if not (trimap == TRIMAP_BACKGROUND).any():
        raise NoMask("no background seeds")
    if image.min() == image.max():
        raise NoMask("constant image")
    labels = OPENCV_LABELS[trimap]
    labels[(trimap == TRIMAP_UNKNOWN) & likely] = cv2.GC_PR_FGD
    try:
        _cut(image, labels, iterations)
    except cv2.error as error:
        raise NoMask(f"OpenCV: {error.err or error.code}") from None
    mask = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return seeded_component(smoothed(mask, radius) | seeds, seeds)


def _cut(image: np.ndarray, labels: np.ndarray, iterations: int) -> None:
    """OpenCV's GrabCut on `labels` in place, on one thread (the processes share the cores) and with a fixed seed."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    cv2.setRNGSeed(OPENCV_SEED)
    try:
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), labels, None, *models, iterations, cv2.GC_INIT_WITH_MASK)
    finally:
        cv2.setNumThreads(threads)


def smoothed(mask: np.ndarray, radius: float) -> np.ndarray:
    """Opened, then closed with a disc; beyond the border the image repeats its edge, so that nothing shrinks there."""
    steps = round(radius)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * steps + 1, 2 * steps + 1))
    wide = np.pad(mask.astype(np.uint8), 2 * steps, mode="edge")
    wide = cv2.morphologyEx(cv2.morphologyEx(wide, cv2.MORPH_OPEN, disc), cv2.MORPH_CLOSE, disc)
    height, width = mask.shape
    return wide[2 * steps :, 2 * steps :][:height, :width] > 0


def seeded_component(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The component that holds the most seeds, and so the crossing of the diameters, without holes."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    window = np.s_[y : y + height, x : x + width]
    components, _ = ndimage.label(mask[window])
    largest = np.bincount(components[seeds[window]])[1:].argmax() + 1
    whole = np.zeros_like(mask)
    whole[window] = ndimage.binary_fill_holes(components == largest)
    return whole
