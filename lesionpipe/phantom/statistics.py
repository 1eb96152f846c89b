"""Distributions of the real DeepLesion that the phantom follows: type, size and shape of lesions, spacing, interval.

The numbers were fitted on the published table (32,331 lesions): `LONG_MM` and `LONG_MM_SPREAD` so that the phantom's
boxes meet the real boxes' widths and heights (median 28.6 and 27.8 px); the per-type medians and spreads are means and
standard deviations of ln(long diameter in mm), and `SHORT_OVER_LONG` the maximum-likelihood beta distribution of short
over long diameter, on the 6,819 rows that carry both diameters and the spacing.
"""

import numpy as np

LONG_MM, LONG_MM_SPREAD = 20.0, 0.74  # median, and standard deviation of the logarithm
LONG_MM_RANGE = (4.5, 120.0)
SHORT_OVER_LONG = (4.03, 1.48)
SHORT_OVER_LONG_RANGE = (0.36, 0.98)

# In the order of Coarse_lesion_type, 1 to 8.
KINDS = ("bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis")
# Shares of the types; bone and soft tissue a little above the real 2 and 7 %, so that small phantoms hold them as well.
KIND_SHARES = np.array([0.05, 0.20, 0.16, 0.14, 0.23, 0.06, 0.08, 0.08])
KIND_LOG_MM = np.array([2.73, 3.09, 2.96, 3.14, 2.57, 2.96, 3.08, 3.17])
KIND_LOG_MM_SPREAD = np.array([0.56, 0.66, 0.50, 0.74, 0.89, 0.64, 0.54, 0.67])
KIND_LARGEST_MM = np.array([40, 120, 85, 110, 100, 65, 80, 110])

SLICE_INTERVALS_MM = (5.0, 1.0, 2.5, 2.0)
SLICE_INTERVAL_SHARES = (0.5, 0.26, 0.12, 0.12)
SPACING_MM = (0.81, 0.085)  # of a 512 px slice: median and standard deviation; real 0.28 to 0.98
SPACING_RANGE_MM = (0.62, 0.95)
# Shares of slices with 1, 2 and 3; the real 0.994, 0.006 and 0.0001 would hardly show up in a small phantom.
LESIONS_PER_SLICE = (0.9, 0.08, 0.02)


def spacing(rng: np.random.Generator, image_size: int) -> float:
    """Pixel spacing in mm; smaller pictures show the same field of view, so their pixels are larger."""
    return round(float(np.clip(rng.normal(*SPACING_MM), *SPACING_RANGE_MM)), 3) * 512 / image_size


def slice_interval(rng: np.random.Generator) -> float:
    return float(rng.choice(SLICE_INTERVALS_MM, p=SLICE_INTERVAL_SHARES))


def diameters_mm(rng: np.random.Generator, smallest: float) -> tuple[float, float]:
    """Long and short diameter of a lesion, mm; none is shorter than `smallest`."""
    low, high = max(LONG_MM_RANGE[0], smallest), LONG_MM_RANGE[1]
    long = float(np.clip(np.exp(rng.normal(np.log(LONG_MM), LONG_MM_SPREAD)), low, high))
    ratio = float(np.clip(rng.beta(*SHORT_OVER_LONG), *SHORT_OVER_LONG_RANGE))
    return long, long * ratio


def kind_weights(long_mm: float) -> np.ndarray:
    """Probability (8,) of each lesion type given the size: prior times the type's lognormal density."""
    z = (np.log(long_mm) - KIND_LOG_MM) / KIND_LOG_MM_SPREAD
    weight = KIND_SHARES * np.exp(-(z**2) / 2) / KIND_LOG_MM_SPREAD * (long_mm <= KIND_LARGEST_MM)
    return weight / weight.sum()
