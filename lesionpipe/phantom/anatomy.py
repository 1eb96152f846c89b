"""The patient's inside: built once from a seed, then painted at any level z (chest, belly and pelvis in turn)."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from lesionpipe.phantom import trunk, tubes
from lesionpipe.phantom.canvas import Canvas, Label, NamedLabel, random_waves, read_table, superellipse
from lesionpipe.phantom.trunk import Body

LOOPS = 14  # of small bowel
LOOP_FILLINGS = (18.0, 24.0, 40.0, -750.0)  # HU: fluid, fluid, chyme, gas
ORAL_CONTRAST_HU = 240.0
CHEST_SOFT = (Label.LUNG, Label.MEDIASTINUM)
ROOM_OF_BOWEL = (Label.PERITONEUM, Label.BOWEL, Label.VESSEL, Label.COLON)
ROOM_OF_VEINS = (Label.PERITONEUM, Label.LIVER, Label.PANCREAS, *CHEST_SOFT, Label.MUSCLE, Label.BOWEL)
FATS = (Label.FAT, Label.MEDIASTINUM, Label.PERITONEUM)
CALCIFYING = (Label.VESSEL, Label.LUNG, Label.PERITONEUM, Label.BOWEL)
ARTERIES = ("aorta", "right_iliac", "left_iliac", "right_carotid", "left_carotid", "left_subclavian")
HEART_VESSELS = ("pulmonary", "left_pulmonary", "vena_cava_superior", "brachiocephalic")
VEINS = ("vena_cava", "portal", "splenic", "right_renal", "left_renal", "right_iliac_vein", "left_iliac_vein")
AIRWAYS = ("trachea", "right_bronchus", "left_bronchus")


@dataclass(frozen=True)
class Organ:
    """A solid between two levels: key points (t, u, v) of its centre and (t, ru, rv) of its relative radii."""

    label: NamedLabel
    levels: tuple[float, float]
    centre: tuple[tuple[float, float, float], ...]
    radii: tuple[tuple[float, float, float], ...]
    tilt: float = 0.0
    power: float = 2.0
    wave: float = 0.06
    within: tuple[NamedLabel, ...] = (Label.PERITONEUM,)


ORGANS: dict[str, Organ] = read_table("organs.json", dict[str, Organ])  # their order fixes the random numbers


class PlacedOrgan:
    """One patient's version of an organ: moved, sized and shaped a little differently."""

    def __init__(self, rng: Generator, organ: Organ):
        self.organ = organ
        self.shift, self.size = rng.normal(0, 0.018, 2), rng.normal(1, 0.05)  # in u and v; relative
        self.waves = random_waves(rng, organ.wave)

    def contour(
        self, body: Body, t: float, scale: float = 1.0, move: tuple[float, float] = (0, 0)
    ) -> np.ndarray | None:
        """Cross-section at level t in mm, None where the organ isn't; `move` is in units of its own radii."""
        first, last = self.organ.levels
        along = (2 * t - first - last) / (last - first)
        if abs(along) >= 0.995:
            return None
        cap = np.sqrt(1 - along**4) * self.size * scale
        a, b = body.cavity(t)
        ru, rv = (cap * r for r in _between(self.organ.radii, t))
        u, v = _between(self.organ.centre, t)
        centre = body.point(u + self.shift[0] + move[0] * ru, v + self.shift[1] + move[1] * rv, t)[:2]
        radii = max(ru * a, 0.5), max(rv * b, 0.5)
        return superellipse(centre, radii, self.organ.tilt, self.organ.power, self.waves.at(t * body.level_mm))


def _between(keys: tuple[tuple[float, float, float], ...], t: float) -> tuple[float, float]:
    """Both values of key points (t, a, b), interpolated at t."""
    levels, first, second = zip(*keys, strict=True)
    return np.interp(t, levels, first), np.interp(t, levels, second)


class Anatomy:
    """One patient: a trunk that fits a field of view, organs, tubes and small structures that resemble lesions."""

    def __init__(self, rng: Generator, field_mm: float, female: bool):
        self.body = Body(rng, field_mm, female)
        bowel, loop = tubes.small_bowel(rng, self.body, LOOPS)
        absent = "prostate" if female else "womb"
        self.organs = {name: PlacedOrgan(rng, organ) for name, organ in ORGANS.items() if name != absent}
        self.tubes = tubes.courses(rng, self.body) | tubes.vessel_trees(rng, self.body) | {"bowel": bowel}
        self.tubes["nodes"] = tubes.lymph_nodes(rng, self.body)
        self.tubes["calcifications"] = tubes.calcifications(rng, self.body)
        # for each piece of bowel an index into LOOP_FILLINGS, and whether oral contrast reaches it
        self.bowel_filling = rng.choice(len(LOOP_FILLINGS), LOOPS, p=(0.35, 0.3, 0.25, 0.1))[loop]
        self.bowel_contrast = (rng.random(LOOPS) < 0.5)[loop]

    def paint(self, canvas: Canvas, z: float, fine: bool = True) -> None:
        """Paint the slice at z mm, without lesions, blur and noise; `fine` adds the vessels within lungs and liver."""
        t, tissue = self.body.level(z), canvas.tissue
        trunk.paint_wall(canvas, self.body, t)
        if t < 1.45:
            self._paint_chest(canvas, t)
        if t > 0.8:
            self._paint_belly(canvas, z)
        trunk.paint_bones(canvas, self.body, t)
        self._paint_vessels(canvas, z)
        if fine:
            self._tube(canvas, "lung_vessels", z, None, tissue[Label.MUSCLE] - 10, (Label.LUNG,))
            self._tube(canvas, "liver_vessels", z, None, (tissue.vein + tissue[Label.LIVER]) / 2 + 6, (Label.LIVER,))
            self._tube(canvas, "calcifications", z, None, 480, CALCIFYING)

    def _paint_chest(self, canvas: Canvas, t: float) -> None:
        for name in ("mediastinum", "right_dome", "left_dome"):
            self._organ(canvas, name, t)
        if t > 1.08:
            rise = np.interp(t, [1.08, 1.42], [0.7, 1.02])
            canvas.fill(self.body.cavity_contour(t, rise, -1.05 * (1 - rise)), Label.PERITONEUM, within=CHEST_SOFT)
        self._organ(canvas, "heart", t)
        blood = canvas.tissue[Label.HEART] + 0.25 * (canvas.tissue.vein - 40)
        for move in (-0.3, 0.35):  # the chambers
            self._organ(canvas, "heart", t, blood, 0.41, (move, 0.1 - move / 2))

    def _paint_belly(self, canvas: Canvas, z: float) -> None:
        t = self.body.level(z)
        for name in ("liver", "left_lobe", "gallbladder", "spleen", "stomach", "pancreas"):
            self._organ(canvas, name, t)
        content = self._organ(canvas, "stomach", t, ORAL_CONTRAST_HU if canvas.tissue.oral_contrast else 22, 0.84)
        if content is not None:
            surface = content[:, 1].min() + 0.35 * np.ptp(content[:, 1])
            gas = np.stack([content[:, 0], np.minimum(content[:, 1], surface)], axis=1)
            canvas.fill(gas, Label.STOMACH, -920, (Label.STOMACH,))
        self._tube(canvas, "mesenteric", z, Label.VESSEL, canvas.tissue.vein - 15, (Label.PERITONEUM,))
        self._paint_bowel(canvas, z)
        for name in ("womb", "prostate", "bladder"):
            if name in self.organs:
                self._organ(canvas, name, t)
        trunk.paint_psoas(canvas, self.body, t)
        for name, inward in (("right_kidney", 1.0), ("left_kidney", -1.0)):
            self._paint_kidney(canvas, name, t, inward)

    def _paint_kidney(self, canvas: Canvas, name: str, t: float, inward: float) -> None:
        self._organ(canvas, name, t)
        self._organ(canvas, name, t, canvas.tissue.medulla, 0.68)
        levels = self.organs[name].organ.levels
        middle = 1 - abs(2 * t - sum(levels)) / np.ptp(levels)
        if middle > 0.35:  # the sinus opens towards the spine at mid height
            for move in (0.2, 0.55, 0.9) if middle > 0.6 else (0.1,):
                sinus = self.organs[name].contour(self.body, t, 0.34, (2.9 * move * inward, -0.3 * move))
                canvas.fill(sinus, Label.PERITONEUM, canvas.tissue[Label.PERITONEUM] + 25, (Label.KIDNEY,))

    def _paint_bowel(self, canvas: Canvas, z: float) -> None:
        self._tube(canvas, "bowel", z, Label.BOWEL, within=ROOM_OF_BOWEL)
        ends, radii, which = self.tubes["bowel"].cut(z)
        for filling, hu in enumerate(LOOP_FILLINGS):
            for contrast in (False, True):
                of_this = (self.bowel_filling[which] == filling) & (self.bowel_contrast[which] == contrast)
                chosen = of_this & (radii > 3.5)
                hu_here = ORAL_CONTRAST_HU if contrast and canvas.tissue.oral_contrast else hu
                canvas.lines(ends[chosen], radii[chosen] - 2.5, Label.BOWEL, hu_here, (Label.BOWEL,))
        self._tube(canvas, "colon", z, Label.COLON, within=ROOM_OF_BOWEL)
        ends, radii, _ = self.tubes["colon"].cut(z, 3.0)
        canvas.lines(ends, radii, Label.COLON, -40, (Label.COLON,))
        canvas.lines(ends - [0, 3], radii * 0.6, Label.COLON, -820, (Label.COLON,))

    def _paint_vessels(self, canvas: Canvas, z: float) -> None:
        tissue = canvas.tissue
        for name in HEART_VESSELS:
            self._tube(canvas, name, z, Label.VESSEL, (tissue.vein + tissue[Label.VESSEL]) / 2)
        for name in VEINS:
            self._tube(canvas, name, z, Label.VESSEL, tissue.vein, ROOM_OF_VEINS)
        for name in ARTERIES:
            self._tube(canvas, name, z, Label.VESSEL)
        for name in ("esophagus", *AIRWAYS):
            self._tube(canvas, name, z, Label.ESOPHAGUS)
        for name in AIRWAYS:
            self._tube(canvas, name, z, Label.AIRWAY, wall=1.5)
        self._tube(canvas, "nodes", z, Label.NODE, within=FATS)

    def _organ(
        self, canvas: Canvas, name: str, t: float, hu: float | None = None, scale: float = 1.0, move=(0, 0)
    ) -> np.ndarray | None:
        """Paint an organ's section, or with `hu` an inner part of it, and return its `PlacedOrgan.contour`."""
        organ, contour = self.organs[name].organ, self.organs[name].contour(self.body, t, scale, move)
        if contour is not None:
            canvas.fill(contour, organ.label, hu, organ.within if hu is None else (organ.label,))
        return contour

    def _tube(
        self, canvas: Canvas, name: str, z: float, label: Label | None, hu: float | None = None, within=(), wall=0.0
    ) -> None:
        ends, radii, _ = self.tubes[name].cut(z, wall)
        canvas.lines(ends, radii, label, hu, within)
