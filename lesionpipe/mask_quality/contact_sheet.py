"""The contact sheet: lesions with RECIST lines, trimap and the masks of all methods side by side, for people to judge.

A lesion is a strip of five panels: the slice with its RECIST lines; the trimap (green: sure foreground, dark: sure
background, the rest unknown); then the mask of each method. The method that was used is outlined in red, the others in
yellow, and the true mask, where one is known, in blue.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lesionpipe.mask_quality.agreement import on_stored_grid
from lesionpipe.masks import recist
from lesionpipe.masks.grabcut import windowed
from lesionpipe.masks.methods import MaskSettings, WeakLabel, make_mask, trimap_of, usable_box, usable_points
from lesionpipe.masks.recist import PixelGrid

METHODS = ("grabcut", "box-dilation", "ellipse")
PANEL_PX, CAPTION_PX, GAP_PX = 104, 15, 8
STRIPS_PER_ROW = 2
LARGEST_BYTES = 590_000
USED_COLOUR, OTHER_COLOUR, TRUE_COLOUR = (230, 40, 40), (250, 210, 60), (70, 170, 255)
RECIST_COLOUR, SEED_COLOUR = (255, 255, 255), (60, 200, 90)


class Example(NamedTuple):
    """One lesion of the contact sheet: its slice int16 (S, S), label, caption, and true mask bool (H, W) if known."""

    hu: np.ndarray
    label: WeakLabel
    caption: str
    method: str
    true: np.ndarray | None


def choose_examples(method: np.ndarray, area_px: np.ndarray, chosen: str, count: int) -> list[int]:
    """Which of n lesions to show: up to a third with a fallback's mask, the rest spread evenly over the sizes.

    Args:
        method: (n,) that made each mask. area_px: (n,) of the masks.
        chosen: `masks.method`.
    """
    ordered = np.argsort(area_px, kind="stable")
    fallbacks, usual = ordered[method[ordered] != chosen], ordered[method[ordered] == chosen]
    first = _evenly(fallbacks, max(count // 3, count - len(usual)))
    return [*_evenly(usual, count - len(first)), *first]


def _evenly(items: np.ndarray, count: int) -> list[int]:
    """At most `count` of the items, at even distances, first and last included."""
    if len(items) <= count:
        return items.tolist()
    return items[np.linspace(0, len(items) - 1, count).round().astype(int)].tolist()


def contact_sheet(examples: list[Example], settings: MaskSettings, title: str) -> Image.Image:
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


def example_strip(example: Example, settings: MaskSettings) -> np.ndarray:
    """The five panels of one lesion: uint8 RGB (PANEL_PX, 5 · PANEL_PX, 3)."""
    side = len(example.hu)
    label = example.label._replace(box=usable_box(example.label.box, side))
    centre = (label.box[:2] + label.box[2:]) / 2
    # px of the slice per px of the panel
    step = max(1.6 * float(np.max(label.box[2:] - label.box[:2])), 16.0) / PANEL_PX
    start = centre - step * (PANEL_PX - 1) / 2
    grid = PixelGrid(start[0] + step * np.arange(PANEL_PX), start[1] + step * np.arange(PANEL_PX), 1)
    grey = np.rint(_sampled(windowed(example.hu, label.window), grid, cv2.INTER_LINEAR)).astype(np.uint8)
    plain = np.repeat(grey[:, :, None], 3, axis=2)
    panels = [_with_recist(plain, label, grid), _with_trimap(plain, label, grid, settings)]
    true = None if example.true is None else on_stored_grid(example.true, side)
    for method in METHODS:
        made = make_mask(example.hu, example.label, dataclasses.replace(settings, method=method))
        mask = np.zeros((side, side), bool)
        mask[made.y0 : made.y0 + made.mask.shape[0], made.x0 : made.x0 + made.mask.shape[1]] = made.mask
        used = method == settings.method or made.method == example.method
        panels.append(_outlined(plain, mask, true, USED_COLOUR if used else OTHER_COLOUR, grid))
    return np.concatenate(panels, axis=1)


def _sampled(image: np.ndarray, grid: PixelGrid, interpolation: int) -> np.ndarray:
    """A slice (S, S) at the points of a grid; 0 beyond its border."""
    x, y = np.meshgrid(grid.x.astype(np.float32), grid.y.astype(np.float32))
    return cv2.remap(image.astype(np.float32), x, y, interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def _with_recist(plain: np.ndarray, label: WeakLabel, grid: PixelGrid) -> np.ndarray:
    """A panel with the diameters, or with the box where there are none."""
    panel = plain.copy()
    corners = np.array([label.box[[0, 1]], label.box[[2, 1]], label.box[[2, 3]], label.box[[0, 3]]])
    points = label.points if isinstance(usable_points(label), np.ndarray) else None
    lines = [corners] if points is None else [points[:2], points[2:]]
    at = [np.rint((line - (grid.x[0], grid.y[0])) / (grid.x[1] - grid.x[0])).astype(np.int32) for line in lines]
    return cv2.polylines(panel, at, points is None, RECIST_COLOUR, 1, cv2.LINE_AA)


def _with_trimap(plain: np.ndarray, label: WeakLabel, grid: PixelGrid, settings: MaskSettings) -> np.ndarray:
    """A panel with the trimap from which the chosen method (or else GrabCut) starts."""
    points = usable_points(label)
    if not isinstance(points, np.ndarray):
        return plain // 3
    method = "grabcut" if settings.method == "ellipse" else settings.method
    trimap = trimap_of(method, label, grid, settings.background_ellipse_factor)
    panel = np.where((trimap == recist.TRIMAP_BACKGROUND)[:, :, None], plain // 3, plain)
    tinted = plain // 2 + np.array(SEED_COLOUR, np.uint8) // 2
    return np.where((trimap == recist.TRIMAP_FOREGROUND)[:, :, None], tinted, panel)


def _outlined(
    plain: np.ndarray, mask: np.ndarray, true: np.ndarray | None, colour: tuple, grid: PixelGrid
) -> np.ndarray:
    """A panel with the outline of a mask, over that of the true one."""
    panel = plain.copy()
    for shape, tint in ((true, TRUE_COLOUR), (mask, colour)):
        if shape is not None:
            drawn = (_sampled(shape, grid, cv2.INTER_NEAREST) > 0.5).astype(np.uint8)
            outlines, _ = cv2.findContours(drawn, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(panel, outlines, -1, tint, 1)
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
