"""`lesionpipe anchors`: good anchors for anybody's boxes and RetinaNet."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from lesionpipe.anchors.grid import HALF_PIXEL, SIZES_PX, AnchorSet, retinanet_set, strides_of
from lesionpipe.anchors.overlap import BestOverlap
from lesionpipe.anchors.report import iou_statistics
from lesionpipe.anchors.search import SearchResult, SearchSettings, SearchSpace, search_anchors
from lesionpipe.commands.box_file import read_boxes
from lesionpipe.core.errors import UserError

SMALLEST_FACTOR, LARGEST_FACTOR = 0.01, 1000  # of scales, ratios and sizes
LARGEST_SIZE_PX = 1e6
TABLE_LINES = {
    "mean_iou_grid": "mean best IoU on the grid",
    "mean_iou_concentric": "mean best IoU, concentric",
    "below_0.5_grid": "share under 0.5 on the grid",
    "below_0.4_grid": "share under 0.4 on the grid",
}

BoxesOption = Annotated[
    Path, typer.Option(help="DL_info.csv, or a COCO annotation file (*.json; crowd regions left out).")
]
PlacementOption = Annotated[
    Literal["grid", "concentric"],
    typer.Option(
        help="grid: the nearest real anchor position counts; concentric: box and anchor share a centre (paper's code)."
    ),
]
ObjectiveOption = Annotated[str, typer.Option(help="iou: mean best IoU; focal: weights badly covered boxes more.")]
FormerScoreOption = Annotated[str | None, typer.Option("--score", hidden=True)]
LevelsOption = Annotated[str, typer.Option(help="Pyramid levels; level n has stride 2^n px.")]
SplitOption = Annotated[
    Literal["train", "val", "test"], typer.Option(help="Of a DL_info.csv; a COCO file is one split.")
]
SizesOption = Annotated[
    str | None, typer.Option(help="px per level, finest first; if not given 32, doubled at each level.")
]
ScaleBoundsOption = Annotated[str, typer.Option(help="Lowest and highest scale.")]
RatioBoundsOption = Annotated[str, typer.Option(help="Lowest and highest ratio, for all pairs or one by one: 1,2,2,4.")]
SizeBoundsOption = Annotated[
    str | None, typer.Option(help="Lowest and highest factor of each size, to search sizes too.")
]
ResizeOption = Annotated[float, typer.Option(min=0.001, max=1000, help="Factor by which training resizes the images.")]
PaperPixelsOption = Annotated[bool, typer.Option(help="Search as the paper's code: whole pixels, width = x2 - x1 + 1.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes, 0: one per core; pays from 100,000 boxes on.")]


def anchors(
    boxes: BoxesOption,
    placement: PlacementOption = "grid",
    objective: ObjectiveOption = "iou",
    levels: LevelsOption = "2-6",
    split: SplitOption = "val",
    sizes: SizesOption = None,
    scales: Annotated[int, typer.Option(min=1, max=10, help="Scales per size.")] = 3,
    ratio_pairs: Annotated[int, typer.Option(min=0, max=5, help="Pairs r:1 and 1:r beside 1:1.")] = 2,
    scale_bounds: ScaleBoundsOption = "0.4,1.6",
    ratio_bounds: RatioBoundsOption = "1,4",
    size_bounds: SizeBoundsOption = None,
    resize: ResizeOption = 1.0,
    paper_pixels: PaperPixelsOption = False,
    population: Annotated[int, typer.Option(min=4, help="Candidates per variable.")] = 15,
    generations: Annotated[int, typer.Option(min=1, help="At most.")] = 100,
    mutation: Annotated[float, typer.Option(min=0.01, max=1.99, help="Of differential evolution.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    workers: WorkersOption = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    score: FormerScoreOption = None,
) -> None:
    """Search anchor scales and ratios that cover the boxes of a file best, by differential evolution."""
    _check_objective(objective, score)
    numbered = _levels(levels)
    space = SearchSpace(
        _sizes(sizes, len(numbered)),
        numbered,
        _intervals("--scale-bounds", scale_bounds, scales),
        _intervals("--ratio-bounds", ratio_bounds, ratio_pairs),
        None if size_bounds is None else _intervals("--size-bounds", size_bounds, 1)[0],
    )
    given, images = _resized(*read_boxes(boxes, split), resize)
    searched, pixel = (np.trunc(given), 1) if paper_pixels else (given, 0)
    overlap = BestOverlap(searched, strides_of(numbered) if placement == "grid" else None, images, pixel)
    settings = SearchSettings(population, generations, mutation, seed, workers or -1)
    found = search_anchors(space, overlap, objective, settings)
    result = result_as_dict(found, given, images) | {"placement": placement, "objective": objective}
    default = anchor_statistics(retinanet_set(numbered, space.sizes), given, images)
    print(json.dumps(result, allow_nan=False) if as_json else result_as_text(result, default))


def _check_objective(objective: str, score: str | None) -> None:
    """Refuse what isn't an objective, and the two options' former names with their present ones."""
    if score is not None:
        raise UserError(
            f"--score {score}: is now --objective; the former --objective (grid, concentric) is --placement"
        )
    if objective in ("grid", "concentric"):
        raise UserError(f"--objective {objective}: is now --placement {objective}; --objective is iou or focal")
    if objective not in ("iou", "focal"):
        raise UserError(f"--objective {objective}: must be iou or focal")


def _resized(boxes: np.ndarray, images: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    return (boxes + HALF_PIXEL) * factor - HALF_PIXEL, images * factor


def anchor_statistics(anchor_set: AnchorSet, boxes: np.ndarray, images: np.ndarray) -> dict[str, float]:
    """Mean best IoU on the grid and concentric, and shares of boxes with less than 0.5 and 0.4 on the grid."""
    grid = BestOverlap(boxes, anchor_set.strides, images).of(anchor_set)
    return iou_statistics(grid, BestOverlap(boxes, None).of(anchor_set))


def result_as_dict(found: SearchResult, boxes: np.ndarray, images: np.ndarray) -> dict:
    """What ``--json`` prints; sizes and strides in px, `loss` what the search minimised."""
    effort = {"evaluations": found.evaluations, "seconds": round(found.seconds, 3)}
    statistics = anchor_statistics(found.anchors, boxes, images)
    return found.anchors.to_dict() | statistics | effort | {"boxes": len(boxes), "loss": found.loss}


def result_as_text(result: dict, default: dict[str, float]) -> str:
    """A table for people."""
    names = ("sizes", "strides", "scales", "ratios")
    lines = [f"{name:8s}{'  '.join(f'{value:.4g}' for value in result[name])}" for name in names]
    lines += [
        f"{len(result['scales']) * len(result['ratios'])} anchors per cell for {result['boxes']} boxes; "
        f"{result['evaluations']} evaluations in {result['seconds']:.1f} s",
        "",
        f"{'':32s}{'found':>8s}{'RetinaNet default':>20s}",
    ]
    lines += [f"{text:32s}{result[name]:8.4f}{default[name]:20.4f}" for name, text in TABLE_LINES.items()]
    return "\n".join(lines)


def _levels(text: str) -> tuple[int, ...]:
    found = re.fullmatch("P?([0-9]{1,2})-P?([0-9]{1,2})", text)
    first, last = map(int, found.groups()) if found else (1, 0)
    if not first <= last <= 12:
        raise UserError(f"--levels {text}: must be first-last between 0 and 12, such as 2-6 or P2-P6")
    return tuple(range(first, last + 1))


def _sizes(text: str | None, levels: int) -> tuple[float, ...]:
    if text is None:
        return tuple(SIZES_PX[0] * 2**level for level in range(levels))
    sizes = _numbers("--sizes", text)
    if len(sizes) != levels or not all(SMALLEST_FACTOR <= size <= LARGEST_SIZE_PX for size in sizes):
        raise UserError(f"--sizes {text}: must be {levels} numbers of px, one per level, separated by commas")
    return sizes


def _intervals(option: str, text: str, wanted: int) -> tuple[tuple[float, float], ...]:
    """`wanted` intervals (low, high); one given stands for all."""
    values = _numbers(option, text)
    pairs = tuple(zip(values[::2], values[1::2], strict=False))
    lowest = 1 if option == "--ratio-bounds" else SMALLEST_FACTOR
    if len(values) % 2 or not all(lowest <= low < high <= LARGEST_FACTOR for low, high in pairs):
        raise UserError(f"{option} {text}: must be low,high that rise between {lowest:g} and {LARGEST_FACTOR:g}")
    if len(pairs) not in (1, wanted):
        raise UserError(f"{option} {text}: give one low,high for all, or one for each of the {wanted}")
    return pairs * wanted if len(pairs) == 1 else pairs


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in text.split(","))
    except ValueError:
        values = ()
    if not values or not np.isfinite(values).all():
        raise UserError(f"{option} {text}: must be numbers separated by commas")
    return values
