"""`lesionpipe anchors`: good anchors for anybody's boxes (a DL_info.csv or a COCO annotation file) and RetinaNet."""

import json
import math
import re
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from lesionpipe.anchors.grid import HALF_PIXEL, SIZES_PX, retinanet_set, strides_of
from lesionpipe.anchors.overlap import BestOverlap, SplitBoxes, coverage
from lesionpipe.anchors.search import SearchSpace, search_anchors
from lesionpipe.core.boxes import clip
from lesionpipe.core.errors import UserError
from lesionpipe.data.coco import read_coco
from lesionpipe.data.stored.schema import SPLITS
from lesionpipe.lesions.dl_info import read_dl_info
from lesionpipe.params.sections import Split

SMALLEST_FACTOR, LARGEST_FACTOR = 0.01, 1000  # of scales, ratios and sizes
LARGEST_SIZE_PX = 1e6  # of anchors and of images: areas in float32 stay finite
USUAL_SIDES_PX = (512, 768, 1024)  # of DeepLesion's slices; a box without an Image_size gets the first that holds it
TABLE_LINES = {
    "mean_iou_grid": "mean best IoU on the grid",
    "mean_iou_concentric": "mean best IoU, concentric",
    "below_0.5_grid": "share under 0.5 on the grid",
    "below_0.4_grid": "share under 0.4 on the grid",
}
PLACEMENT_HELP = "grid: the nearest real anchor position counts; concentric: box and anchor share a centre (paper)."
RatioBounds = Annotated[str, typer.Option(help="Lowest and highest ratio, for all pairs or one by one: 1,2,2,4.")]
SizeBounds = Annotated[str | None, typer.Option(help="Lowest and highest factor of each size, to search sizes too.")]
Resize = Annotated[float, typer.Option(min=0.001, max=1000, help="Factor by which training resizes the images.")]
PaperPixels = Annotated[bool, typer.Option(help="Search as the paper's code: whole pixels, width = x2 - x1 + 1.")]


def anchors(
    boxes: Annotated[Path, typer.Option(help="DL_info.csv, or a COCO annotation file (*.json; no crowd regions).")],
    placement: Annotated[Literal["grid", "concentric"], typer.Option(help=PLACEMENT_HELP)] = "grid",
    objective: Annotated[str, typer.Option(help="iou: mean best IoU; focal: badly covered boxes weigh more.")] = "iou",
    levels: Annotated[str, typer.Option(help="Pyramid levels; level n has stride 2^n px.")] = "2-6",
    split: Annotated[Split, typer.Option(help="Of a DL_info.csv; a COCO file is one split.")] = "val",
    sizes: Annotated[str | None, typer.Option(help="px per level, finest first; none: 32, 64, 128 and so on.")] = None,
    scales: Annotated[int, typer.Option(min=1, max=10, help="Scales per size.")] = 3,
    ratio_pairs: Annotated[int, typer.Option(min=0, max=5, help="Pairs r:1 and 1:r beside 1:1.")] = 2,
    scale_bounds: Annotated[str, typer.Option(help="Lowest and highest scale.")] = "0.4,1.6",
    ratio_bounds: RatioBounds = "1,4",
    size_bounds: SizeBounds = None,
    resize: Resize = 1.0,
    paper_pixels: PaperPixels = False,
    population: Annotated[int, typer.Option(min=4, help="Candidates per variable.")] = 15,
    generations: Annotated[int, typer.Option(min=1, help="At most.")] = 100,
    mutation: Annotated[float, typer.Option(min=0.01, max=1.99, help="Of differential evolution.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes, 0: one per core; pays from 100,000 boxes on.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    score: Annotated[str | None, typer.Option("--score", hidden=True)] = None,
) -> None:
    """Search anchor scales and ratios that cover the boxes of a file best, by differential evolution."""
    _check_objective(objective, score)
    numbered = _levels(levels)
    space = SearchSpace(
        _sizes(sizes, len(numbered)),
        numbered,
        _intervals("--scale-bounds", scale_bounds, scales),
        _intervals("--ratio-bounds", ratio_bounds, ratio_pairs, lowest=1),
        None if size_bounds is None else _intervals("--size-bounds", size_bounds, 1)[0],
    )
    given, images = read_boxes(boxes, split)
    lesions = SplitBoxes((given + HALF_PIXEL) * resize - HALF_PIXEL, images * resize)
    searched, pixel = (np.trunc(lesions.boxes), 1) if paper_pixels else (lesions.boxes, 0)
    overlap = BestOverlap(searched, strides_of(numbered) if placement == "grid" else None, lesions.image_sizes, pixel)
    found = search_anchors(space, overlap, objective, population, generations, mutation, seed, workers or -1)
    effort = {"evaluations": found.evaluations, "seconds": round(found.seconds, 3)}
    asked = {"boxes": len(given), "loss": found.loss, "placement": placement, "objective": objective}
    result = found.anchors.to_dict() | coverage(found.anchors, lesions)["all"] | effort | asked
    default = coverage(retinanet_set(numbered, space.sizes), lesions)["all"]
    print(json.dumps(result, allow_nan=False) if as_json else result_as_text(result, default))


def result_as_text(result: dict, default: dict[str, float]) -> str:
    """A table for people of what ``--json`` prints, beside the figures of RetinaNet's default anchors."""
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


def _check_objective(objective: str, score: str | None) -> None:
    """Refuse what isn't an objective, and the two options' former names with their present ones."""
    if score is not None:
        raise UserError(f"--score {score}: is now --objective; what was --objective (grid, concentric) is --placement")
    if objective in ("grid", "concentric"):
        raise UserError(f"--objective {objective}: is now --placement {objective}; --objective is iou or focal")
    if objective not in ("iou", "focal"):
        raise UserError(f"--objective {objective}: must be iou or focal")


def _levels(text: str) -> tuple[int, ...]:
    found = re.fullmatch("P?([0-9]{1,2})-P?([0-9]{1,2})", text)
    first, last = map(int, found.groups()) if found else (1, 0)
    if not first <= last <= 12:
        raise UserError(f"--levels {text}: must be first-last between 0 and 12, such as 2-6 or P2-P6")
    return tuple(range(first, last + 1))


def _sizes(text: str | None, levels: int) -> tuple[float, ...]:
    if text is None:
        return tuple(SIZES_PX[0] * 2**level for level in range(levels))
    sizes = _numbers(text)
    if len(sizes) != levels or not all(SMALLEST_FACTOR <= size <= LARGEST_SIZE_PX for size in sizes):
        raise UserError(f"--sizes {text}: must be {levels} numbers of px, one per level, separated by commas")
    return sizes


def _intervals(option: str, text: str, wanted: int, lowest: float = SMALLEST_FACTOR) -> tuple[tuple[float, float], ...]:
    """`wanted` intervals (low, high); one given stands for all."""
    values = _numbers(text)
    pairs = tuple(zip(values[::2], values[1::2], strict=False))
    if len(values) not in (2, 2 * wanted) or not all(lowest <= low < high <= LARGEST_FACTOR for low, high in pairs):
        raise UserError(
            f"{option} {text}: must be low,high that rise between {lowest:g} and {LARGEST_FACTOR:g}, one pair for all "
            f"or one for each of the {wanted}, separated by commas"
        )
    return pairs if len(pairs) == wanted else pairs * wanted


def _numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas; one NaN, which no limits allow, where there is something else."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        return (math.nan,)


def read_boxes(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) xyxy px, counted from the centre of the first pixel, and their images' width and height (n, 2).

    Boxes are cut to their image. A COCO file is one split by itself, so `split` chooses in a DL_info.csv only. A
    UserError where the file is missing or not what it should be, a box is no box, or the split has none.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a DL_info.csv or a COCO annotation file (*.json)")
    boxes, images, places = _of_coco(path) if path.suffix.lower() == ".json" else _of_dl_info(path, split)
    cut = clip(boxes + HALF_PIXEL, images[:, :1], images[:, 1:]) - HALF_PIXEL
    bad = ~(cut[:, 2:] > cut[:, :2]).all(axis=1)  # NaN is never greater
    if bad.any():
        first = int(bad.argmax())
        raise UserError(f"{path}: {places[first]}: not a box with an extent inside its image; correct or remove it")
    return cut, images


def _of_dl_info(path: Path, split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    table = read_dl_info(path)
    table = table[table["split"] == SPLITS.index(split) + 1]
    if table.empty:
        raise UserError(f"{path}: no lesion with Train_Val_Test = {SPLITS.index(split) + 1}; choose another --split")
    boxes = table[["x1", "y1", "x2", "y2"]].to_numpy(float)
    images = table[["width_original_px", "height_original_px"]].to_numpy(float)
    usual = np.array(USUAL_SIDES_PX)
    sides = usual[np.clip(np.searchsorted(usual, boxes[:, 2:].max(axis=1)), 0, len(usual) - 1)]
    images = np.where(np.isnan(images), sides[:, None], images)
    given = zip(table["lesion"], boxes.tolist(), strict=True)
    return boxes - 1, images, [f"row {row}: Bounding_boxes = {box}" for row, box in given]


def _of_coco(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Corners x, y, x + w, y + h count from the edge of the first pixel; ours from its centre, half a pixel less."""
    content = read_coco(path)
    for row, image in enumerate(content.images):
        if not (image.width and image.height and max(image.width, image.height) <= LARGEST_SIZE_PX):
            given = f"images[{row}] (id {image.id!r}): width = {image.width}, height = {image.height}"
            raise UserError(f"{path}: {given}: both must be given, up to a million px; add or correct them")
    rows = [row for row, annotation in enumerate(content.annotations) if not annotation.iscrowd]
    if not rows:
        raise UserError(f"{path}: 'annotations' holds no box (crowd regions don't count); nothing to search for")
    sizes = np.array([(image.width, image.height) for image in content.images], dtype=np.float64)
    places = [f"annotations[{row}].bbox = {list(content.annotations[row].bbox)}" for row in rows]
    return content.boxes[rows] - HALF_PIXEL, sizes[content.positions[rows]], places
