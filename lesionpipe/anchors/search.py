"""The anchor search: differential evolution over scales and reciprocal ratio pairs (paper, sec. 2.1).

The variables are the scales, one number per ratio pair (r stands for 1:r and r:1, beside a fixed 1:1) and, if wanted,
one factor per level that frees its size. The objective is `overlap.anchor_loss` of the boxes' best IoUs. Candidates of
a generation are all made before any is evaluated (``updating="deferred"``), so the result is the same for every number
of workers.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.optimize import OptimizeResult, differential_evolution

from lesionpipe.anchors.grid import AnchorSet, strides_of
from lesionpipe.anchors.overlap import BestOverlap, anchor_loss
from lesionpipe.core.errors import UserError
from lesionpipe.params import Anchors

REFERENCE_SIDE_PX = 512  # of the slice that the parameter `anchors.sizes` is meant for
CONVERGED_SPREAD = 1e-5  # the search ends early when the losses differ by less than this share of their mean

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
        sizes, scales, ratios = (values.tolist() for values in self.lists(variables))
        return AnchorSet(tuple(sizes), tuple(sorted(scales)), tuple(sorted(ratios)), strides_of(self.levels))

    def lists(self, variables: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sizes, scales and ratios of a vector of variables."""
        variables = np.asarray(variables)
        scales, pairs, factors = np.split(variables, np.cumsum([len(self.scale_bounds), len(self.ratio_bounds)]))
        sizes = np.asarray(self.sizes) * factors if self.size_bounds else np.asarray(self.sizes)
        return sizes, scales, np.concatenate([1 / pairs, [1.0], pairs])


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The best set, its loss, and what it took: evaluations, seconds, best and mean loss by generation."""

    anchors: AnchorSet
    loss: float
    evaluations: int
    seconds: float
    history: list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Of differential evolution: candidates per variable, generations at most, mutation, seed, processes.

    More processes than one pay from about 100,000 boxes on; -1 is one per core.
    """

    population: int = 15
    generations: int = 100
    mutation: float = 0.5
    seed: int = 0
    workers: int = 1


def build_search_space(settings: Anchors, levels: Sequence[int], side: float) -> SearchSpace:
    """The space that the section `anchors` of the parameters describes, for slices of `side` px.

    Raises:
        UserError: the number of sizes isn't that of the levels.
    """
    if len(settings.sizes) != len(levels):
        raise UserError(f"anchors.sizes: {len(settings.sizes)} sizes for the {len(levels)} levels of network.levels")
    sizes = tuple(size * side / REFERENCE_SIDE_PX for size in settings.sizes)
    scale_bounds = (settings.scale_bounds,) * settings.scales
    return SearchSpace(sizes, tuple(levels), scale_bounds, settings.ratio_bounds, settings.size_bounds)


def build_search_settings(settings: Anchors) -> SearchSettings:
    """The settings of differential evolution in the section `anchors` of the parameters."""
    return SearchSettings(settings.population, settings.generations, settings.mutation, settings.seed)


def _loss(space: SearchSpace, overlap: BestOverlap, objective: str, variables: np.ndarray) -> float:
    return anchor_loss(overlap(*space.lists(variables)), objective)


def search_anchors(
    space: SearchSpace, overlap: BestOverlap, objective: Literal["iou", "focal"], settings: SearchSettings
) -> SearchResult:
    """The anchor set of `space` with the smallest loss over the boxes of `overlap`.

    Args:
        overlap: boxes prepared for the strides of `space.levels`, or concentric.
        objective: see `overlap.anchor_loss`.
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
        rng=settings.seed,
        popsize=settings.population,
        maxiter=settings.generations,
        mutation=settings.mutation,
        tol=CONVERGED_SPREAD,
        polish=False,
        updating="deferred",
        workers=settings.workers,
        callback=note,
    )
    seconds = time.perf_counter() - start
    return SearchResult(space.anchor_set(result.x), float(result.fun), int(result.nfev), seconds, history)
