"""The anchor search: differential evolution over scales and reciprocal ratio pairs (paper, sec. 2.1).

The variables are the scales, one number per ratio pair (r stands for 1:r and r:1, beside a fixed 1:1) and, if wanted,
one factor per level that frees its size. All candidates of a generation are made before any is evaluated
(``updating="deferred"``), so the result is the same for every number of workers.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy.optimize import OptimizeResult, differential_evolution

from lesionpipe.anchors.grid import AnchorSet, strides_of
from lesionpipe.anchors.overlap import BestOverlap, SplitBoxes, anchor_loss, coverage
from lesionpipe.core.parallel import spread
from lesionpipe.core.progress import progress
from lesionpipe.params import Anchors

REFERENCE_SIDE_PX = 512  # of the slice that the parameter `anchors.sizes` is meant for
CONVERGED_SPREAD = 1e-5  # the search ends early when the losses differ by less than this share of their mean
SCALE_COUNTS = (1, 2, 3, 4, 5)
RATIO_PAIR_COUNTS = (0, 1, 2)

Bounds = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """What is searched: all anchor sets with these sizes (px) and levels whose numbers lie within the bounds.

    `size_bounds` are factors of the sizes, the same interval for every level; None keeps the sizes (paper).
    """

    sizes: tuple[float, ...]
    levels: tuple[int, ...]
    scale_bounds: tuple[Bounds, ...]  # one per scale
    ratio_bounds: tuple[Bounds, ...]  # one per pair
    size_bounds: Bounds | None = None

    @property
    def bounds(self) -> list[Bounds]:
        """Limits of the search's variables: scales, ratios, then size factors."""
        factors = [self.size_bounds] * len(self.sizes) if self.size_bounds else []
        return [*self.scale_bounds, *self.ratio_bounds, *factors]

    def anchor_set(self, variables: Sequence[float]) -> AnchorSet:
        """The anchor set that a vector of variables means; scales and ratios rise."""
        ends = np.cumsum([len(self.scale_bounds), len(self.ratio_bounds)])
        scales, pairs, factors = (values.tolist() for values in np.split(np.asarray(variables), ends))
        sizes = [size * factor for size, factor in zip(self.sizes, factors or [1] * len(self.sizes), strict=True)]
        ratios = sorted([*(1 / pair for pair in pairs), 1.0, *pairs])
        return AnchorSet(tuple(sizes), tuple(sorted(scales)), tuple(ratios), strides_of(self.levels))


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The best set, its loss, and what it took: evaluations, seconds, best and mean loss by generation."""

    anchors: AnchorSet
    loss: float
    evaluations: int
    seconds: float
    history: list[dict[str, float]]


def build_search_space(settings: Anchors, levels: Sequence[int], side: float) -> SearchSpace:
    """The space that the section `anchors` of the parameters describes, for slices of `side` px."""
    sizes = tuple(size * side / REFERENCE_SIDE_PX for size in settings.sizes)
    scale_bounds = (settings.scale_bounds,) * settings.scales
    return SearchSpace(sizes, tuple(levels), scale_bounds, settings.ratio_bounds, settings.size_bounds)


def _loss(space: SearchSpace, overlap: BestOverlap, objective: str, variables: np.ndarray) -> float:
    return anchor_loss(overlap.by_area(space.anchor_set(variables)), objective)


def search_anchors(
    space: SearchSpace,
    overlap: BestOverlap,
    objective: Literal["iou", "focal"],
    population: int = 15,
    generations: int = 100,
    mutation: float = 0.5,
    seed: int = 0,
    workers: int = 1,
) -> SearchResult:
    """The anchor set of `space` with the smallest `anchor_loss` over boxes prepared for its strides, or concentric.

    `population` are candidates per variable, `generations` at most so many, `mutation` is that of differential
    evolution; `workers` are processes, -1 for one per core: more than one pay from about 100,000 boxes on.
    """
    history: list[dict[str, float]] = []

    def note(intermediate_result: OptimizeResult) -> None:
        losses = intermediate_result.population_energies
        count = {"generation": len(history) + 1, "evaluations": intermediate_result.nfev}
        history.append(count | {"best_loss": float(losses.min()), "mean_loss": float(losses.mean())})

    start = time.perf_counter()
    result = differential_evolution(
        functools.partial(_loss, space, overlap, objective),  # no closure: worker processes receive it
        space.bounds,
        rng=seed,
        popsize=population,
        maxiter=generations,
        mutation=mutation,
        tol=CONVERGED_SPREAD,
        polish=False,
        updating="deferred",
        workers=workers,
        callback=note,
    )
    seconds = time.perf_counter() - start
    return SearchResult(space.anchor_set(result.x), float(result.fun), int(result.nfev), seconds, history)


def search_by_count(
    space: SearchSpace, lesions: SplitBoxes, search: Callable[[SearchSpace], SearchResult], workers: int = 1
) -> pd.DataFrame:
    """metrics/anchors_count.csv: overlap by number of scales and ratio pairs, each within the widest bounds."""
    scale, ratio = (
        (float(np.min(bounds)), float(np.max(bounds)))
        for bounds in (space.scale_bounds, space.ratio_bounds or (1.0, 4.0))
    )
    spaces = [
        dataclasses.replace(space, scale_bounds=(scale,) * scales, ratio_bounds=(ratio,) * pairs)
        for scales in SCALE_COUNTS
        for pairs in RATIO_PAIR_COUNTS
    ]
    rows = []
    for found in progress(spread(search, spaces, workers), "anchors by count", len(spaces)):
        scales, ratios = found.anchors.scales, found.anchors.ratios
        rows.append(
            {"anchors_per_cell": found.anchors.per_cell, "scales": len(scales), "ratios": len(ratios)}
            | coverage(found.anchors, lesions)["all"]
            | {"scale_values": " ".join(f"{value:.3f}" for value in scales)}
            | {"ratio_values": " ".join(f"{value:.3f}" for value in ratios)}
        )
    return pd.DataFrame(rows).sort_values(["anchors_per_cell", "scales"], ignore_index=True)
