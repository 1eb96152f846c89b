"""Where anchors lie and how large they are: sizes, scales, ratios and strides become boxes (paper, sec. 2.1).

Every cell of pyramid level n (stride 2**n) holds one anchor per scale and ratio around the cell's centre. An anchor of
size s, scale k and ratio r has the area (s k)^2 and height / width = r. Nothing is rounded and nothing is clipped.

Cell (row, column) of a level has its centre at ((column + 0.5) stride, (row + 0.5) stride) in the frame where pixel i
covers [i, i + 1). Our boxes count from the centre of the first pixel, so 0.5 is subtracted here, and only here. A level
of an image of side S has ceil(S / stride) cells a side; a last cell whose centre is outside the image yields anchors
too, because the network predicts for them, but they take no part in matching (`centre_inside`).
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import read_json

SIZES_PX = (32.0, 64.0, 128.0, 256.0, 512.0)  # of a 512 px slice, RetinaNet and paper
RETINANET_SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RETINANET_RATIOS = (0.5, 1.0, 2.0)
PAPER_SCALES = (0.425, 0.540, 0.680)
PAPER_RATIOS = (1 / 3.27, 1 / 1.78, 1.0, 1.78, 3.27)
HALF_PIXEL = 0.5
ROUNDING_PX = 0.01  # above float32's at any image size, below the distance between centres and inner borders
LARGEST_VALUES = {"sizes": 1e6, "scales": 1000.0, "ratios": 1000.0, "strides": 4096}  # areas in float32 stay finite


@dataclasses.dataclass(frozen=True)
class AnchorSet:
    """The anchors of a pyramid: one size (px) and stride (px) per level, finest first; scales and ratios of every cell.

    A UserError where a list is missing, empty or holds what can't be, or sizes and strides differ in number.
    """

    sizes: tuple[float, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, largest in LARGEST_VALUES.items():
            values = getattr(self, name)
            numbers = isinstance(values, tuple) and all(type(value) in (int, float) for value in values)
            if not values or not numbers or not all(0 < value <= largest for value in values):  # NaN is never greater
                raise UserError(f"anchors: {name} = {values!r}: must be a list of positive numbers up to {largest:g}")
        if any(stride != int(stride) for stride in self.strides):
            raise UserError(f"anchors: strides = {self.strides}: must be whole numbers of px")
        if len(self.sizes) != len(self.strides):
            raise UserError(f"anchors: {len(self.sizes)} sizes for {len(self.strides)} levels; give one size per level")

    @property
    def per_cell(self) -> int:
        """Anchors per cell: scales times ratios."""
        return len(self.scales) * len(self.ratios)

    def scaled(self, factor: float) -> Self:
        """The same anchors for slices resized by `factor`: the sizes shrink, the network's strides stay."""
        return dataclasses.replace(self, sizes=tuple(size * factor for size in self.sizes))

    def to_dict(self) -> dict[str, list]:
        """The four lists by name, as JSON holds them."""
        return {name: list(values) for name, values in vars(self).items()}

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """The set whose lists `values` holds by name; other keys are ignored."""
        given = values if isinstance(values, dict) else {}
        lists = {name: given.get(name) for name in LARGEST_VALUES}
        return cls(**{name: tuple(held) if isinstance(held, list) else held for name, held in lists.items()})


def read_anchors(path: str | Path = "data/anchors.json") -> AnchorSet:
    """The anchors in use; a UserError that names the file where it is missing or holds no anchor set."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; run `dvc repro anchors`")
    try:
        return AnchorSet.from_dict(read_json(path))
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'{path}: ')}; run `dvc repro -f anchors`") from None


def level_numbers(levels: str) -> tuple[int, ...]:
    """Pyramid levels that a name such as "P2-P6" means, finest first; the stride of level n is 2**n."""
    first, last = (int(name[1:]) for name in levels.split("-"))
    return tuple(range(first, last + 1))


def strides_of(levels: Sequence[int]) -> tuple[int, ...]:
    """Strides in px of pyramid levels: P2 -> 4, …, P7 -> 128."""
    return tuple(2**level for level in levels)


def retinanet_set(levels: Sequence[int], sizes: Sequence[float] = SIZES_PX) -> AnchorSet:
    """RetinaNet's default, 9 per cell: scales 2^0, 2^1/3, 2^2/3, ratios 1:2, 1:1, 2:1."""
    return AnchorSet(tuple(sizes), RETINANET_SCALES, RETINANET_RATIOS, strides_of(levels))


def paper_set(levels: Sequence[int], sizes: Sequence[float] = SIZES_PX) -> AnchorSet:
    """The set that the paper publishes, 15 per cell (paper, sec. 2.1)."""
    return AnchorSet(tuple(sizes), PAPER_SCALES, PAPER_RATIOS, strides_of(levels))


def cell_sides(size: float, scales: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Widths and heights (scales * ratios, 2) in px of the anchors of one cell, all ratios of the first scale first."""
    side = size * np.repeat(np.asarray(scales, float), len(ratios))
    ratio = np.sqrt(np.tile(np.asarray(ratios, float), len(scales)))
    return np.stack([side / ratio, side * ratio], axis=-1)


def anchors_for(anchor_set: AnchorSet, height: int, width: int) -> np.ndarray:
    """All anchors of an image of height x width px: float32 (A, 4) xyxy; levels finest first, in a level the cells row
    by row, in a cell all ratios of the first scale, then of the second, and so on."""
    boxes = []
    for size, stride in zip(anchor_set.sizes, anchor_set.strides, strict=True):
        columns, rows = (np.arange(math.ceil(side / stride)) for side in (width, height))
        x, y = np.meshgrid((columns + 0.5) * stride - HALF_PIXEL, (rows + 0.5) * stride - HALF_PIXEL)
        centres = np.stack([x, y], axis=-1)[:, :, None]  # (rows, columns, 1, 2)
        half = cell_sides(size, anchor_set.scales, anchor_set.ratios) / 2
        boxes.append(np.concatenate([centres - half, centres + half], axis=-1).reshape(-1, 4))
    return np.concatenate(boxes).astype(np.float32)


def centre_inside(anchors, height: float, width: float):
    """Which anchors (…, 4), NumPy or tensor, have their centre inside the image: bool (…,).

    Centres are never left of or above the image, so only the far borders count; a centre on the border is outside, also
    where float32 corners place it a hair before.
    """
    x, y = (anchors[..., 0] + anchors[..., 2]) / 2, (anchors[..., 1] + anchors[..., 3]) / 2
    inset = HALF_PIXEL + ROUNDING_PX
    return (x < width - inset) & (y < height - inset)
