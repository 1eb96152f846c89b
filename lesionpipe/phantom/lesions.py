"""A lesion as a solid: a lobed ellipsoid (or a spiculated one) and how it looks in CT."""

from dataclasses import dataclass, replace

import numpy as np

from lesionpipe.phantom.canvas import ANGLES, Label, Waves, fill_mask, random_waves, superellipse
from lesionpipe.phantom.statistics import KINDS
from lesionpipe.phantom.tissue import Tissue

# Share of lesions that a plane of fat separates from bowel and vessels, without which none could tell where they end.
FAT_PLANES = {"abdomen": 0.8, "pelvis": 0.8, "mediastinum": 0.65}


@dataclass(frozen=True)
class Look:
    """How a lesion shows: HU and margins."""

    hu: float
    core_hu: float  # in the middle (necrosis, fluid); equal to hu where there is none
    core: float  # relative size of that middle
    rim_hu: float  # at the border
    edge_mm: float  # standard deviation of the blur of its margin
    texture_hu: float  # of its coarse unevenness
    fat_plane_mm: float = 0.0  # thickness of the fat that keeps neighbouring organs off


@dataclass(frozen=True)
class Lesion:
    """A solid in body coordinates (mm); its largest section lies near its key slice."""

    kind: int  # Coarse_lesion_type, 1 to 8
    centre: tuple[float, float, float]
    radii: tuple[float, float]
    tilt: float
    height: float  # half extent along z
    lean: tuple[float, float]  # shift of the section's centre from the middle to an end
    waves: Waves
    look: Look

    def contour(self, z: float, scale: float = 1.0) -> np.ndarray | None:
        """Outline (72, 2) in mm of the section at z, None above and below the lesion."""
        along = (z - self.centre[2]) / self.height
        if abs(along) >= 0.98:
            return None
        size = np.sqrt(1 - along**2) * scale
        centre = np.array(self.centre[:2]) + along * np.array(self.lean)
        radii = (self.radii[0] * size, self.radii[1] * size)
        return superellipse(centre, radii, self.tilt, 2.0, self.waves(ANGLES, z - self.centre[2]))

    def grown(self, factor: float) -> "Lesion":
        return replace(self, radii=(self.radii[0] * factor, self.radii[1] * factor), height=self.height * factor)

    def at(self, x: float, y: float, z: float, tilt: float) -> "Lesion":
        """The same lesion elsewhere."""
        return replace(self, centre=(x, y, z), tilt=tilt)


@dataclass(frozen=True)
class LesionSection:
    """A true mask on the pixel grid of a slice: crop (h, w) bool and the crop's corner in 0-based pixels."""

    crop: np.ndarray
    x: int
    y: int

    def full(self, size: int) -> np.ndarray:
        """Mask (size, size) of the whole slice."""
        mask = np.zeros((size, size), bool)
        mask[self.y : self.y + self.crop.shape[0], self.x : self.x + self.crop.shape[1]] = self.crop
        return mask


def section(contour_px: np.ndarray, size: int) -> LesionSection:
    """Pixels inside a contour (n, 2) in 0-based pixels, cut at the border of a slice of `size` px."""
    low = np.clip(np.floor(contour_px.min(axis=0)).astype(int) - 2, 0, size - 1)
    high = np.clip(np.ceil(contour_px.max(axis=0)).astype(int) + 3, low + 1, size)
    width, height = high - low
    return LesionSection(fill_mask((height, width), contour_px - low).astype(bool), int(low[0]), int(low[1]))


def random_lesion(
    rng: np.random.Generator, kind: int, diameters: tuple[float, float], tissue: Tissue, host: Label
) -> Lesion:
    """A lesion of the given long and short diameter (mm) that still has to be put into its place."""
    long, short = diameters
    spiky = KINDS[kind - 1] == "lung" and long > 10 and rng.random() < 0.3
    waves = _spicules(rng) if spiky else random_waves(rng, rng.uniform(0.04, 0.15), 5, 0.6 / long)
    return Lesion(
        kind=kind,
        centre=(0.0, 0.0, 0.0),
        radii=(long / 2, short / 2),
        tilt=0.0,
        height=max(0.5 * np.sqrt(long * short) * float(rng.uniform(0.85, 1.35)), 3.2),
        lean=tuple((rng.normal(0, 0.12, 2) * short).tolist()),
        waves=waves,
        look=random_look(rng, kind, diameters, tissue, host),
    )


def _spicules(rng: np.random.Generator) -> Waves:
    amplitude = np.concatenate([rng.uniform(0, 0.05, 4), rng.uniform(0.03, 0.09, 5)])
    return Waves(amplitude, rng.uniform(0, 2 * np.pi, 9), rng.normal(0, 0.04, 9))


def random_look(
    rng: np.random.Generator, kind: int, diameters: tuple[float, float], tissue: Tissue, host: Label
) -> Look:
    """Contrast from obvious to subtle, as its type shows it in this scan's phase."""
    name, large = KINDS[kind - 1], diameters[1] > 22
    soft = float(tissue[Label.NODE] + rng.normal(0, 13))
    look = _LOOKS.get(name, _soft_look)(rng, tissue, soft, host)
    if large and look.core == 0 and look.hu > 0 and name not in ("liver", "kidney") and rng.random() < 0.45:
        look = replace(look, core=float(rng.uniform(0.4, 0.7)), core_hu=float(rng.uniform(12, 32)))
    if name in FAT_PLANES and rng.random() < FAT_PLANES[name]:
        look = replace(look, fat_plane_mm=float(rng.uniform(1.0, 3.0)))
    return look


def _plain(hu: float, edge: float, texture: float) -> Look:
    return Look(hu, hu, 0.0, hu, edge, texture)


def _soft_look(rng: np.random.Generator, tissue: Tissue, soft: float, host: Label) -> Look:
    """Nodes and masses in fat: soft tissue, sometimes ill-defined; against muscle they are darker or brighter."""
    if host is Label.MUSCLE:
        soft = float(tissue[Label.MUSCLE] + rng.choice([-1, 1], p=(0.6, 0.4)) * rng.uniform(18, 50))
    return _plain(soft, float(rng.uniform(0.5, 1.6)), float(rng.uniform(4, 12)))


def _liver_look(rng: np.random.Generator, tissue: Tissue, soft: float, host: Label) -> Look:
    liver = tissue[Label.LIVER]
    kind = rng.random()
    if kind < 0.25:  # a cyst
        return _plain(float(rng.uniform(2, 18)), 0.6, 3.0)
    if tissue.phase == "arterial" and kind < 0.6:  # enhances more than the liver
        return _plain(liver + float(rng.uniform(28, 65)), float(rng.uniform(0.8, 2.0)), 8.0)
    darker = float(rng.uniform(14, 30) if tissue.phase == "native" else rng.uniform(18, 65))
    rim = float(rng.uniform(0, 25)) if tissue.phase != "native" and rng.random() < 0.4 else 0.0
    edge = float(rng.uniform(0.8, 2.6))
    core = float(rng.uniform(0.4, 0.65)) if rng.random() < 0.35 else 0.0
    return Look(liver - darker, liver - darker - 22, core, liver - darker + rim, edge, float(rng.uniform(3, 9)))


def _lung_look(rng: np.random.Generator, tissue: Tissue, soft: float, host: Label) -> Look:
    kind = rng.random()
    if kind < 0.13:  # ground glass
        return _plain(float(rng.uniform(-680, -480)), float(rng.uniform(1.2, 2.5)), 60.0)
    if kind < 0.22:  # part solid
        return Look(float(rng.uniform(-580, -380)), soft, float(rng.uniform(0.35, 0.6)), -600.0, 1.2, 50.0)
    if kind < 0.28:  # a cavity
        return Look(soft, -850.0, float(rng.uniform(0.35, 0.6)), soft, 0.8, 10.0)
    return _plain(float(soft - rng.uniform(0, 60)), float(rng.uniform(0.5, 1.3)), 12.0)


def _kidney_look(rng: np.random.Generator, tissue: Tissue, soft: float, host: Label) -> Look:
    kidney = tissue[Label.KIDNEY]
    if rng.random() < 0.55:  # a cyst
        return _plain(float(rng.uniform(2, 20)), 0.6, 3.0)
    if tissue.phase == "native":
        return _plain(kidney + float(rng.choice([-20, 22])), 1.0, 6.0)
    return _plain(kidney - float(rng.uniform(45, 110)), float(rng.uniform(0.6, 1.5)), 14.0)


def _bone_look(rng: np.random.Generator, tissue: Tissue, soft: float, host: Label) -> Look:
    if rng.random() < 0.6:  # lytic
        return Look(soft, soft, 0.0, soft + float(rng.choice([0, 90])), float(rng.uniform(0.5, 1.4)), 18.0)
    return _plain(float(rng.uniform(600, 950)), float(rng.uniform(0.8, 1.8)), 60.0)


_LOOKS = {"liver": _liver_look, "lung": _lung_look, "kidney": _kidney_look, "bone": _bone_look}
