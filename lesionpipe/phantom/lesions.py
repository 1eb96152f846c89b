"""Lesions: the sizes of each type, the solid (a lobed or spiculated ellipsoid), its look in CT and its measurement.

The sizes here and in `lesion_types.json` were fitted on the published table (32,331 lesions): `LONG_MM` and its spread
so that the phantom's boxes meet the real boxes' widths and heights (median 28.6 and 27.8 px), those per type and the
beta distribution `SHORT_OVER_LONG` by maximum likelihood on the 6,819 rows with both diameters and the spacing.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.random import Generator

from lesionpipe.phantom.canvas import Label, NamedLabel, Tissue, Waves, random_waves, read_table, superellipse

LONG_MM, LONG_MM_SPREAD = 20.0, 0.74  # median, and standard deviation of the logarithm
LONG_MM_RANGE = (4.5, 120.0)
SHORT_OVER_LONG = (4.03, 1.48)
SHORT_OVER_LONG_RANGE = (0.36, 0.98)
ACROSS_DEGREES = 8.0  # real short axes lie within about 6 degrees of the perpendicular in 90 % of the lesions


@dataclass(frozen=True)
class Kind:
    """A lesion type: how large its lesions are and where they lie."""

    number: int  # Coarse_lesion_type
    name: str
    share: float  # bone and soft tissue a little above the real 2 and 7 %, so that small phantoms hold them as well
    log_mm: float  # mean of ln(long diameter in mm)
    log_mm_spread: float  # its standard deviation
    largest_mm: float
    levels: tuple[float, float]  # range of t
    host: tuple[NamedLabel, ...]  # tissues of which one holds the lesion's centre
    over: tuple[NamedLabel, ...]  # tissues that the lesion may displace
    depth: float  # least distance of the centre from the host's border, in short radii
    inside: float  # least share of the lesion within the host's own tissue
    fat_plane: float = 0.0  # share that fat separates from bowel and vessels, so that one can tell where they end


KINDS: tuple[Kind, ...] = read_table("lesion_types.json", tuple[Kind, ...])


@dataclass(frozen=True)
class Look:
    """How a lesion shows: HU and margins."""

    hu: float
    edge_mm: float  # standard deviation of the blur of its margin
    texture_hu: float  # of its coarse unevenness
    rim_hu: float | None = None  # at the border, where it differs
    core: float = 0.0  # relative size of another middle (necrosis, fluid), 0 where there is none
    core_hu: float = 0.0
    fat_plane_mm: float = 0.0  # thickness of the fat that keeps neighbouring organs off


@dataclass(frozen=True)
class Lesion:
    """A solid in body coordinates (mm); its largest section lies near its key slice."""

    kind: Kind
    radii: tuple[float, float]
    height: float  # half extent along z
    lean: np.ndarray  # (2,) shift of the section's centre from the middle to an end
    waves: Waves
    look: Look
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tilt: float = 0.0

    def contour(self, z: float, scale: float = 1.0) -> np.ndarray | None:
        """Outline (72, 2) in mm of the section at z, None above and below the lesion."""
        along = (z - self.centre[2]) / self.height
        if abs(along) >= 0.98:
            return None
        size = np.sqrt(1 - along**2) * scale
        centre, radii = self.centre[:2] + along * self.lean, (self.radii[0] * size, self.radii[1] * size)
        return superellipse(centre, radii, self.tilt, 2.0, self.waves.at(z - self.centre[2]))


def diameters_mm(rng: Generator, smallest: float) -> tuple[float, float]:
    """Long and short diameter of a lesion, mm; none is shorter than `smallest`."""
    low, high = max(LONG_MM_RANGE[0], smallest), LONG_MM_RANGE[1]
    long = float(np.clip(np.exp(rng.normal(np.log(LONG_MM), LONG_MM_SPREAD)), low, high))
    return long, long * float(np.clip(rng.beta(*SHORT_OVER_LONG), *SHORT_OVER_LONG_RANGE))


def kind_weights(long_mm: float) -> np.ndarray:
    """Probability (8,) of each lesion type given the size: prior times the type's lognormal density."""
    table = np.array([(k.share, k.log_mm, k.log_mm_spread, k.largest_mm) for k in KINDS])
    share, log_mm, spread, largest_mm = table.T
    z = (np.log(long_mm) - log_mm) / spread
    weight = share * np.exp(-(z**2) / 2) / spread * (long_mm <= largest_mm)
    return weight / weight.sum()


def random_lesion(rng: Generator, kind: Kind, diameters: tuple[float, float], tissue: Tissue, host: Label) -> Lesion:
    """A lesion of the given long and short diameter (mm) that still has to be put into its place."""
    long, short = diameters
    if kind.name == "lung" and long > 10 and rng.random() < 0.3:  # spiculated
        amplitude = np.concatenate([rng.uniform(0, 0.05, 4), rng.uniform(0.03, 0.09, 5)])
        waves = Waves(amplitude, rng.uniform(0, 2 * np.pi, 9), rng.normal(0, 0.04, 9))
    else:
        waves = random_waves(rng, rng.uniform(0.04, 0.15), 5, 0.6 / long)
    height = max(0.5 * np.sqrt(long * short) * rng.uniform(0.85, 1.35), 3.2)
    lean = rng.normal(0, 0.12, 2) * short
    look = random_look(rng, kind, diameters, tissue, host)
    return Lesion(kind, (long / 2, short / 2), height, lean, waves, look)


def random_look(rng: Generator, kind: Kind, diameters: tuple[float, float], tissue: Tissue, host: Label) -> Look:
    """Contrast from obvious to subtle, as its type shows it in this scan's phase."""
    soft = tissue[Label.NODE] + rng.normal(0, 13)
    match kind.name:
        case "liver":
            look = _liver_look(rng, tissue)
        case "lung":
            look = _lung_look(rng, soft)
        case "kidney":
            look = _kidney_look(rng, tissue)
        case "bone":
            look = _bone_look(rng, soft)
        case _:  # nodes and masses in fat: soft tissue, sometimes ill-defined; against muscle darker or brighter
            if host is Label.MUSCLE:
                soft = tissue[Label.MUSCLE] + rng.choice([-1, 1], p=(0.6, 0.4)) * rng.uniform(18, 50)
            look = Look(soft, rng.uniform(0.5, 1.6), rng.uniform(4, 12))
    solid = look.core == 0 and look.hu > 0 and kind.name not in ("liver", "kidney")
    if diameters[1] > 22 and solid and rng.random() < 0.45:
        look = replace(look, core=rng.uniform(0.4, 0.7), core_hu=rng.uniform(12, 32))
    if kind.fat_plane and rng.random() < kind.fat_plane:
        look = replace(look, fat_plane_mm=rng.uniform(1.0, 3.0))
    return look


def _liver_look(rng: Generator, tissue: Tissue) -> Look:
    liver, chance = tissue[Label.LIVER], rng.random()
    if chance < 0.25:  # a cyst
        return Look(rng.uniform(2, 18), 0.6, 3.0)
    if tissue.phase == "arterial" and chance < 0.6:  # enhances more than the liver
        return Look(liver + rng.uniform(28, 65), rng.uniform(0.8, 2.0), 8.0)
    hu = liver - (rng.uniform(14, 30) if tissue.phase == "native" else rng.uniform(18, 65))
    rim = rng.uniform(0, 25) if tissue.phase != "native" and rng.random() < 0.4 else 0.0
    edge = rng.uniform(0.8, 2.6)
    core = rng.uniform(0.4, 0.65) if rng.random() < 0.35 else 0.0
    return Look(hu, edge, rng.uniform(3, 9), rim_hu=hu + rim, core=core, core_hu=hu - 22)


def _lung_look(rng: Generator, soft: float) -> Look:
    chance = rng.random()
    if chance < 0.13:  # ground glass
        return Look(rng.uniform(-680, -480), rng.uniform(1.2, 2.5), 60.0)
    if chance < 0.22:  # part solid
        return Look(rng.uniform(-580, -380), 1.2, 50.0, rim_hu=-600.0, core=rng.uniform(0.35, 0.6), core_hu=soft)
    if chance < 0.28:  # a cavity
        return Look(soft, 0.8, 10.0, core=rng.uniform(0.35, 0.6), core_hu=-850.0)
    return Look(soft - rng.uniform(0, 60), rng.uniform(0.5, 1.3), 12.0)


def _kidney_look(rng: Generator, tissue: Tissue) -> Look:
    kidney = tissue[Label.KIDNEY]
    if rng.random() < 0.55:  # a cyst
        return Look(rng.uniform(2, 20), 0.6, 3.0)
    if tissue.phase == "native":
        return Look(kidney + rng.choice([-20, 22]), 1.0, 6.0)
    return Look(kidney - rng.uniform(45, 110), rng.uniform(0.6, 1.5), 14.0)


def _bone_look(rng: Generator, soft: float) -> Look:
    if rng.random() < 0.6:  # lytic
        rim = soft + rng.choice([0, 90])
        return Look(soft, rng.uniform(0.5, 1.4), 18.0, rim_hu=rim)
    return Look(rng.uniform(600, 950), rng.uniform(0.8, 1.8), 60.0)


def recist(mask: np.ndarray) -> np.ndarray:
    """End points (4, 2), x and y in 0-based pixels, of the largest part of a mask (h, w): long axis, then short axis.

    All four are boundary pixels; the short axis is the longest chord within ACROSS_DEGREES of the perpendicular (of the
    perpendicular half plane where a lesion is too small to have one).
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    boundary = max(contours, key=len)[:, 0]
    hull = cv2.convexHull(boundary)[:, 0]
    long = _longest(hull, True)
    direction = (long[1] - long[0]) / max(np.linalg.norm(long[1] - long[0]), 1e-9)
    steps = boundary[None] - boundary[:, None]
    length = np.hypot(steps[..., 0], steps[..., 1])
    for degrees in (ACROSS_DEGREES, 20, 45, 90):
        allowed = (np.abs(steps @ direction) <= np.sin(np.radians(degrees)) * length + 1e-9) & (length > 0)
        if allowed.any():
            break
    return np.concatenate([long, _longest(boundary, allowed)])


def _longest(points: np.ndarray, allowed: np.ndarray | bool) -> np.ndarray:
    """The two of the points (n, 2) that lie farthest apart, of the allowed pairs (n, n)."""
    steps = points[None] - points[:, None]
    squared = np.where(allowed, (steps**2).sum(axis=2), -1)
    return points[list(np.unravel_index(squared.argmax(), squared.shape))]


def axis_lengths(points: np.ndarray) -> tuple[float, float]:
    """Long and short diameter in px of end points (4, 2)."""
    long, short = points[1] - points[0], points[3] - points[2]
    return float(np.hypot(*long)), float(np.hypot(*short))
