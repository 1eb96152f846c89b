"""The drawing board of the phantom: HU and tissue labels of one slice, filled by contours and tubes given in mm.

Body coordinates are mm: x to the right of the picture (the patient's left), y to the back, z towards the feet; the
origin of x and y lies in the middle of the body. Contours are cut out of solids, so that neighbouring slices agree.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from numpy.random import Generator
from pydantic import BeforeValidator, TypeAdapter

ANGLES = np.linspace(0, 2 * np.pi, 72, endpoint=False)
COS, SIN = np.cos(ANGLES), np.sin(ANGLES)
SUBPIXEL_BITS = 4
WHOLE = np.s_[0:, 0:]  # of a picture
PHASES = ("native", "portal", "arterial")  # without contrast, portal-venous, arterial
PHASE_SHARES = (0.22, 0.63, 0.15)


class Label(IntEnum):
    """What a pixel belongs to."""

    AIR, TABLE, SKIN, FAT, MUSCLE, BONE, CANAL, DISC = range(8)
    LUNG, MEDIASTINUM, HEART, VESSEL, AIRWAY, ESOPHAGUS = range(8, 14)
    PERITONEUM, LIVER, GALLBLADDER, SPLEEN, PANCREAS, STOMACH, KIDNEY, ADRENAL, BOWEL, COLON = range(14, 24)
    BLADDER, WOMB_PROSTATE, NODE = range(24, 27)


Draw = Callable[[np.ndarray, np.ndarray, float], None]  # on a picture, from fixed-point px, with a value
NamedLabel = Annotated[Label, BeforeValidator(Label.__getitem__)]  # written by its name in the tables


def read_table(name: str, form: Any) -> Any:
    """A JSON file beside this module as a value of the type `form`."""
    return TypeAdapter(form).validate_json(Path(__file__).with_name(name).read_bytes())


# Mean HU in the three PHASES (textbook values of abdominal CT), and by how many HU a tissue is uneven over millimetres.
TISSUES = read_table("tissue.json", dict[NamedLabel, tuple[float, float, float, float]])


class Tissue:
    """HU per label for one scan; soft tissue varies by a few HU, enhancement by about a tenth."""

    def __init__(self, rng: Generator):
        phase = rng.choice(3, p=PHASE_SHARES)
        strength = np.clip(rng.normal(1, 0.12), 0.7, 1.3)
        self.phase, self.hu = PHASES[phase], {}
        for label, values in TISSUES.items():
            spread = 3 if values[0] > -200 else 18 if label is Label.LUNG else 4
            self.hu[label] = values[0] + strength * (values[phase] - values[0]) + rng.normal(0, spread)
        # portal and systemic veins of the trunk, inner part of the kidney, spongy bone
        self.vein = (44, 44 + 120 * strength, 44 + 30 * strength)[phase] + rng.normal(0, 4)
        self.medulla = self.hu[Label.KIDNEY] - (0, 18, 95 * strength)[phase]
        self.oral_contrast = rng.random() < 0.4
        self.marrow = rng.normal(190, 30)

    def __getitem__(self, label: Label) -> float:
        return self.hu[label]


@dataclass(frozen=True)
class Waves:
    """Smooth irregularity of an outline that drifts with z: relative radius 1 + sum of cosines."""

    amplitude: np.ndarray  # (m,) for the angular frequencies 2 to m + 1
    phase: np.ndarray  # (m,)
    drift: np.ndarray  # (m,) radians per mm of z

    def at(self, z: float) -> np.ndarray:
        """Relative radius (72,) per angle of ANGLES."""
        order = np.arange(2, 2 + len(self.amplitude))[:, None]
        return 1 + self.amplitude @ np.cos(order * ANGLES + (self.phase + self.drift * z)[:, None])


def random_waves(rng: Generator, amplitude: float, orders: int = 5, drift: float = 0.02) -> Waves:
    """Waves of about the given relative amplitude, weaker at higher frequencies."""
    share = rng.uniform(0.3, 1.0, orders) / np.arange(1, orders + 1)
    return Waves(amplitude * share, rng.uniform(0, 2 * np.pi, orders), rng.normal(0, drift, orders))


def superellipse(centre, radii, tilt: float = 0.0, power: float = 2.0, factor: np.ndarray | float = 1.0) -> np.ndarray:
    """Closed contour (72, 2) in mm; `factor` scales the radius per angle of ANGLES, `power` above 2 squares it."""
    radius = (np.abs(COS / radii[0]) ** power + np.abs(SIN / radii[1]) ** power) ** (-1 / power) * factor
    x, y = radius * COS, radius * SIN
    c, s = np.cos(tilt), np.sin(tilt)
    return np.stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y], axis=1)


def by_label(labels: np.ndarray, values: dict[Label, float], otherwise: float, kind: type = np.float32) -> np.ndarray:
    """The value of each label's tissue: labels uint8 (h, w) as (h, w) of a kind of number."""
    table = np.full(256, otherwise, kind)
    table[list(values)] = list(values.values())
    return cv2.LUT(labels, table)


def any_of(labels: np.ndarray, wanted: Collection[Label]) -> np.ndarray:
    """Which labels uint8 (h, w) are among those wanted: bool (h, w)."""
    return by_label(labels, dict.fromkeys(wanted, 1), 0, np.uint8).view(bool)


def pieces(path: np.ndarray) -> np.ndarray:
    """Straight pieces (n - 1, 2, d) of a path (n, d)."""
    return np.stack([path[:-1], path[1:]], axis=1)


class Canvas:
    """HU (float32) and labels (uint8) of one square slice; `fill` and `lines` paint in place."""

    def __init__(self, size: int, spacing: float, tissue: Tissue, offset: tuple[float, float] = (0.0, 0.0)):
        """A slice of `size` px a side, `spacing` mm per px; the body lies `offset` mm from the picture's centre."""
        self.size, self.spacing, self.tissue = size, spacing, tissue
        self.origin = (size - 1) / 2 + np.asarray(offset) / spacing
        self.hu = np.full((size, size), -1000, np.float32)
        self.label = np.zeros((size, size), np.uint8)

    def to_px(self, points_mm: np.ndarray) -> np.ndarray:
        """0-based pixel coordinates of points in mm (…, 2)."""
        return np.asarray(points_mm) / self.spacing + self.origin

    def around(self, points_mm: np.ndarray, margin: int) -> tuple[slice, slice]:
        """The part of the picture `margin` px around points, at least one pixel."""
        points = self.to_px(points_mm).reshape(-1, 2)
        (left, top), (right, bottom) = np.floor(points.min(axis=0)).tolist(), np.ceil(points.max(axis=0)).tolist()
        return self._between(top, bottom, margin), self._between(left, right, margin)

    def _between(self, low: float, high: float, margin: int) -> slice:
        first = min(max(int(low) - margin, 0), self.size - 1)
        return slice(first, min(max(int(high) + margin, first + 1), self.size))

    def inside(self, contour: np.ndarray, part: tuple[slice, slice] = WHOLE) -> np.ndarray:
        """Pixels inside a contour (n, 2) in mm as a boolean mask, of the whole picture or a part of it."""
        mask = np.zeros(self.label[part].shape, np.uint8)
        cv2.fillPoly(mask, [self._fixed(contour, part)], 1, shift=SUBPIXEL_BITS)
        return mask.view(bool)

    def fill(self, contour: np.ndarray, label: Label, hu: float | None = None, within: tuple[Label, ...] = ()) -> None:
        """Fill a contour (n, 2) in mm with a tissue, in another HU if given; only over the labels `within` if any."""

        def draw(picture: np.ndarray, points: np.ndarray, value: float) -> None:
            cv2.fillPoly(picture, [points], value, shift=SUBPIXEL_BITS)

        self._paint(draw, contour, 2, label, hu, within)

    def lines(
        self, ends: np.ndarray, radii: np.ndarray, label: Label | None, hu: float | None = None, within=()
    ) -> None:
        """Draw thick segments (n, 2, 2) of radii (n,) in mm; label None keeps what the tissue is called."""
        if not len(ends):
            return
        widths = np.maximum(np.rint(2 * radii / self.spacing), 1).astype(int).tolist()

        def draw(picture: np.ndarray, points: np.ndarray, value: float) -> None:
            for (a, b), width in zip(points.tolist(), widths, strict=True):
                cv2.line(picture, a, b, value, width, cv2.LINE_8, SUBPIXEL_BITS)

        self._paint(draw, ends, max(widths) // 2 + 3, label, hu, within)

    def _paint(self, draw: Draw, points_mm: np.ndarray, margin: int, label: Label | None, hu: float | None, within):
        """Paint what is drawn within `margin` px of the points: at once, or through a mask of the labels `within`."""
        part = self.around(points_mm, margin) if within else WHOLE
        points = self._fixed(points_mm, part)
        painted = [(self.hu[part], float(self.tissue[label] if hu is None else hu))]
        if label is not None:
            painted.append((self.label[part], int(label)))
        if within:
            mask = np.zeros(self.label[part].shape, np.uint8)
            draw(mask, points, 1)
            chosen = mask.view(bool) & any_of(self.label[part], within)
        for picture, value in painted:
            if within:
                picture[chosen] = value
            else:
                draw(picture, points, value)

    def _fixed(self, points_mm: np.ndarray, part: tuple[slice, slice]) -> np.ndarray:
        """Points as fixed-point pixels of a part of the picture."""
        rows, columns = part
        pixels = self.to_px(points_mm) - (columns.start, rows.start)
        return np.rint(pixels * (1 << SUBPIXEL_BITS)).astype(np.int32)
