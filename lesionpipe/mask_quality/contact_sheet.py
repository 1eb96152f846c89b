"""The contact sheet: lesions with RECIST lines, trimap and the masks of all methods side by side, for people to judge.

A lesion is a strip of five panels: the slice with its RECIST lines; the trimap (green: sure foreground, dark: sure
background, the rest unknown); then the mask of each method. The method that was used is outlined in red, the others in
yellow, and the true mask, where one is known, in blue.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lesionpipe.masks.grabcut import TRIMAP_BACKGROUND, TRIMAP_FOREGROUND, NoMask, windowed
from lesionpipe.masks.methods import WeakLabel, make_mask, trimap_of, usable_box, usable_points
from lesionpipe.masks.recist import PixelGrid
from lesionpipe.params import Masks

METHODS = ("grabcut", "box-dilation", "ellipse")
PANEL_PX, CAPTION_PX, GAP_PX = 104, 15, 8
STRIPS_PER_ROW = 2
LARGEST_BYTES = 590_000
USED_COLOUR, OTHER_COLOUR, TRUE_COLOUR = (230, 40, 40), (250, 210, 60), (70, 170, 255)
RECIST_COLOUR, SEED_COLOUR = (255, 255, 255), (60, 200, 90)


class Example(NamedTuple):
    """One lesion of the contact sheet: its slice int16 (S, S), label, caption, and true mask bool (S, S) if known."""

    hu: np.ndarray
    label: WeakLabel
    caption: str
    method: str
    true: np.ndarray | None


def choose_examples(method: np.ndarray, area_px: np.ndarray, chosen: str, count: int) -> list[int]:
    """Which of n lesions to show: up to a third with a mask by another method (n,) than the chosen one, the rest by it;
    both spread evenly over the areas (n,)."""
    ordered = np.argsort(area_px, kind="stable")
    fallbacks, usual = ordered[method[ordered] != chosen], ordered[method[ordered] == chosen]
    first = _evenly(fallbacks, max(count // 3, count - len(usual)))
    return [*_evenly(usual, count - len(first)), *first]


def _evenly(items: np.ndarray, count: int) -> list[int]:
    """At most `count` of the items, at even distances, first and last included."""
    if len(items) > count:
        items = items[np.linspace(0, len(items) - 1, count).round().astype(int)]
    return items.tolist()


def contact_sheet(examples: list[Example], settings: Masks, title: str) -> Image.Image:
    """All examples, two strips a row, with a title and the legend."""
    width, height = 5 * PANEL_PX, PANEL_PX + CAPTION_PX
    rows = -(-len(examples) // STRIPS_PER_ROW)
    size = (STRIPS_PER_ROW * (width + GAP_PX) + GAP_PX, 2 * CAPTION_PX + GAP_PX + rows * (height + GAP_PX))
    sheet = Image.new("RGB", size)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    draw.text((GAP_PX, 2), title, font=font)
    legend = "slice with RECIST | trimap | " + " | ".join(METHODS) + "     red: used, yellow: not used, blue: true"
    draw.text((GAP_PX, CAPTION_PX + 2), legend, font=font)
    for i, example in enumerate(examples):
        x = GAP_PX + (i % STRIPS_PER_ROW) * (width + GAP_PX)
        y = 2 * CAPTION_PX + GAP_PX + (i // STRIPS_PER_ROW) * (height + GAP_PX)
        draw.text((x, y), example.caption, font=font)
        sheet.paste(Image.fromarray(example_strip(example, settings)), (x, y + CAPTION_PX))
    return sheet


def example_strip(example: Example, settings: Masks) -> np.ndarray:
    """The five panels of one lesion: uint8 RGB (PANEL_PX, 5 · PANEL_PX, 3)."""
    side = len(example.hu)
    label = _drawable(example.label, side)
    step = max(1.6 * float(np.max(label.box[2:] - label.box[:2])), 16.0) / PANEL_PX  # px of the slice per px of a panel
    start = (label.box[:2] + label.box[2:]) / 2 - step * (PANEL_PX - 1) / 2
    grid = PixelGrid(*(start[:, None] + step * np.arange(PANEL_PX)))
    grey = np.rint(_sampled(windowed(example.hu, label.window), grid, cv2.INTER_LINEAR)).astype(np.uint8)
    plain = np.repeat(grey[:, :, None], 3, axis=2)
    panels = [_with_recist(plain, label, grid), _with_trimap(plain, label, grid, settings)]
    true = [] if example.true is None else [(example.true, TRUE_COLOUR)]
    for method in METHODS:
        made = make_mask(example.hu, example.label, settings.model_copy(update={"method": method}))
        used = method == settings.method or made.method == example.method
        shapes = [*true, (made.on_slice(side), USED_COLOUR if used else OTHER_COLOUR)]
        panels.append(_outlined(plain, shapes, grid))
    return np.concatenate(panels, axis=1)


def _drawable(label: WeakLabel, side: int) -> WeakLabel:
    """The label with its box within the slice, and without end points that give no mask."""
    label = label._replace(box=usable_box(label.box, side))
    try:
        return label._replace(points=usable_points(label))
    except NoMask:
        return label._replace(points=None)


def _sampled(image: np.ndarray, grid: PixelGrid, interpolation: int) -> np.ndarray:
    """A slice (S, S) at the points of a grid; 0 beyond its border."""
    x, y = np.meshgrid(grid.x.astype(np.float32), grid.y.astype(np.float32))
    return cv2.remap(image.astype(np.float32), x, y, interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def _with_recist(plain: np.ndarray, label: WeakLabel, grid: PixelGrid) -> np.ndarray:
    """A panel with the diameters, or with the box where there are none."""
    points = label.points
    lines = [label.box[[[0, 1], [2, 1], [2, 3], [0, 3]]]] if points is None else [points[:2], points[2:]]
    at = [np.rint((line - (grid.x[0], grid.y[0])) / (grid.x[1] - grid.x[0])).astype(np.int32) for line in lines]
    return cv2.polylines(plain.copy(), at, points is None, RECIST_COLOUR, 1, cv2.LINE_AA)


def _with_trimap(plain: np.ndarray, label: WeakLabel, grid: PixelGrid, settings: Masks) -> np.ndarray:
    """A panel with the trimap from which the chosen method (or else GrabCut) starts."""
    if label.points is None:
        return plain // 3
    method = "grabcut" if settings.method in ("ellipse", "quarter-ellipses") else settings.method
    trimap = trimap_of(method, label, grid, settings.background_ellipse_factor)[:, :, None]
    panel = np.where(trimap == TRIMAP_BACKGROUND, plain // 3, plain)
    return np.where(trimap == TRIMAP_FOREGROUND, plain // 2 + np.array(SEED_COLOUR, np.uint8) // 2, panel)


def _outlined(plain: np.ndarray, shapes: list[tuple[np.ndarray, tuple]], grid: PixelGrid) -> np.ndarray:
    """A panel with the outlines of masks (S, S), each in its colour, the last on top."""
    panel = plain.copy()
    for mask, colour in shapes:
        drawn = (_sampled(mask, grid, cv2.INTER_NEAREST) > 0.5).astype(np.uint8)
        outlines, _ = cv2.findContours(drawn, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(panel, outlines, -1, colour, 1)
    return panel


def save_contact_sheet(path: Path, sheet: Image.Image) -> None:
    """Save a PNG below LARGEST_BYTES where 16 greys allow it: the colours of the outlines and as many greys as fit."""
    for greys in (64, 32, 16):
        sheet.quantize(palette=_palette(greys), dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)
        if path.stat().st_size <= LARGEST_BYTES:
            return


def _palette(greys: int) -> Image.Image:
    """Greys, the same greys under the tint of the seeds, and the colours of the lines."""
    ramp = np.repeat(np.linspace(0, 255, greys).round().astype(int)[:, None], 3, axis=1)
    lines = [USED_COLOUR, OTHER_COLOUR, TRUE_COLOUR, RECIST_COLOUR]
    colours = np.concatenate([ramp, ramp // 2 + np.array(SEED_COLOUR) // 2, lines])
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.astype(np.uint8).tobytes())
    return palette
