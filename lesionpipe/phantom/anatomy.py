"""The patient's inside: built once from a seed, then painted at any level z (chest, belly and pelvis in turn)."""

from dataclasses import dataclass

import numpy as np

from lesionpipe.phantom import organs, trunk, tubes
from lesionpipe.phantom.body import Body, PlacedOrgan, place_organ, random_body
from lesionpipe.phantom.canvas import Canvas, Label, Tubes
from lesionpipe.phantom.tissue import Tissue

BELLY_AND_LIVER = (Label.PERITONEUM, Label.LIVER, Label.PANCREAS)
BOWEL_FILLINGS = (18.0, 24.0, 40.0, -750.0)  # HU: fluid, fluid, chyme, gas
ORAL_CONTRAST_HU = 240.0
CALCIFYING = (Label.VESSEL, Label.LUNG, Label.PERITONEUM, Label.BOWEL)


@dataclass(frozen=True)
class Anatomy:
    """One patient: the trunk, its organs and tubes, and small structures that resemble lesions."""

    body: Body
    organs: dict[str, PlacedOrgan]
    tubes: dict[str, Tubes]
    loop_filling: np.ndarray  # (loops,) index into BOWEL_FILLINGS, and whether oral contrast reaches the loop:
    loop_contrast: np.ndarray  # (loops,) bool
    loop_of: np.ndarray  # (pieces of small bowel,)

    def paint(self, canvas: Canvas, z: float, tissue: Tissue, fine: bool = True) -> None:
        """Paint the slice at z mm, without lesions, blur and noise; `fine` adds the vessels within lungs and liver."""
        t = self.body.level(z)
        trunk.paint_wall(canvas, self.body, t, tissue)
        if t < 1.45:
            self._paint_chest(canvas, z, tissue)
        if t > 0.8:
            self._paint_belly(canvas, z, tissue)
        trunk.paint_bones(canvas, self.body, t, tissue)
        self._paint_vessels(canvas, z, tissue)
        if fine:
            self._tube(canvas, "lung_vessels", z, None, tissue[Label.MUSCLE] - 10, (Label.LUNG,))
            self._tube(canvas, "liver_vessels", z, None, (tissue.vein + tissue[Label.LIVER]) / 2 + 6, (Label.LIVER,))
            self._tube(canvas, "calcifications", z, None, 480, CALCIFYING)

    def _paint_chest(self, canvas: Canvas, z: float, tissue: Tissue) -> None:
        t = self.body.level(z)
        self._organ(canvas, "mediastinum", t, tissue)
        for side in ("right_dome", "left_dome"):
            self._organ(canvas, side, t, tissue)
        if t > 1.08:
            rise = np.interp(t, [1.08, 1.42], [0.7, 1.02])
            contour = self.body.cavity_contour(t, rise, -1.05 * (1 - rise))
            canvas.fill(contour, Label.PERITONEUM, tissue[Label.PERITONEUM], organs.CHEST_SOFT)
        self._organ(canvas, "heart", t, tissue)
        blood = tissue[Label.HEART] + 0.25 * (tissue.vein - 40)
        for move in (-0.3, 0.35):  # the chambers
            chamber = self.organs["heart"].contour(self.body, t, 0.41, (move, 0.1 - move / 2))
            if chamber is not None:
                canvas.fill(chamber, Label.HEART, blood, (Label.HEART,))

    def _paint_belly(self, canvas: Canvas, z: float, tissue: Tissue) -> None:
        t = self.body.level(z)
        for name in ("liver", "left_lobe", "gallbladder", "spleen", "stomach", "pancreas"):
            self._organ(canvas, name, t, tissue)
        self._fill_stomach(canvas, t, tissue)
        self._tube(canvas, "mesenteric", z, Label.VESSEL, tissue.vein - 15, (Label.PERITONEUM,))
        self._paint_bowel(canvas, z, tissue)
        for name in organs.PELVIC_ORGANS:
            if name in self.organs:
                self._organ(canvas, name, t, tissue)
        trunk.paint_psoas(canvas, self.body, t, tissue)
        self._paint_kidneys(canvas, t, tissue)

    def _paint_kidneys(self, canvas: Canvas, t: float, tissue: Tissue) -> None:
        for name, inward in (("right_kidney", 1.0), ("left_kidney", -1.0)):
            self._organ(canvas, name, t, tissue)
            kidney = self.organs[name]
            inner = kidney.contour(self.body, t, 0.68)
            if inner is None:
                continue
            canvas.fill(inner, Label.KIDNEY, tissue.medulla, (Label.KIDNEY,))
            middle = 1 - abs(2 * t - sum(kidney.organ.levels)) / np.ptp(kidney.organ.levels)
            if middle > 0.35:  # the sinus opens towards the spine at mid height
                for move in (0.2, 0.55, 0.9) if middle > 0.6 else (0.1,):
                    sinus = kidney.contour(self.body, t, 0.34, (2.9 * move * inward, -0.3 * move))
                    canvas.fill(sinus, Label.PERITONEUM, tissue[Label.PERITONEUM] + 25, (Label.KIDNEY,))

    def _fill_stomach(self, canvas: Canvas, t: float, tissue: Tissue) -> None:
        content = self.organs["stomach"].contour(self.body, t, 0.84)
        if content is None:
            return
        canvas.fill(content, Label.STOMACH, ORAL_CONTRAST_HU if tissue.oral_contrast else 22, (Label.STOMACH,))
        surface = content[:, 1].min() + 0.35 * np.ptp(content[:, 1])
        gas = np.stack([content[:, 0], np.minimum(content[:, 1], surface)], axis=1)
        canvas.fill(gas, Label.STOMACH, -920, (Label.STOMACH,))

    def _paint_bowel(self, canvas: Canvas, z: float, tissue: Tissue) -> None:
        room = (Label.PERITONEUM, Label.BOWEL, Label.VESSEL, Label.COLON)
        ends, radii, which = self.tubes["bowel"].cut(z)
        canvas.lines(ends, radii, Label.BOWEL, tissue[Label.BOWEL], room)
        loop, inner = self.loop_of[which], radii > 3.5
        for filling, hu in enumerate(BOWEL_FILLINGS):
            for contrast in (False, True):
                chosen = inner & (self.loop_filling[loop] == filling) & (self.loop_contrast[loop] == contrast)
                hu_here = ORAL_CONTRAST_HU if contrast and tissue.oral_contrast else hu
                canvas.lines(ends[chosen], radii[chosen] - 2.5, Label.BOWEL, hu_here, (Label.BOWEL,))
        self._tube(canvas, "colon", z, Label.COLON, tissue[Label.COLON], room)
        ends, radii, _ = self.tubes["colon"].cut(z, 3.0)
        canvas.lines(ends, radii, Label.COLON, -40, (Label.COLON,))
        canvas.lines(ends - [0, 3], radii * 0.6, Label.COLON, -820, (Label.COLON,))

    def _paint_vessels(self, canvas: Canvas, z: float, tissue: Tissue) -> None:
        for name in organs.HEART_VESSELS:
            self._tube(canvas, name, z, Label.VESSEL, (tissue.vein + tissue[Label.VESSEL]) / 2)
        for name in organs.VEINS:
            within = BELLY_AND_LIVER + organs.CHEST_SOFT + (Label.MUSCLE, Label.BOWEL)
            self._tube(canvas, name, z, Label.VESSEL, tissue.vein, within)
        for name in organs.ARTERIES:
            self._tube(canvas, name, z, Label.VESSEL, tissue[Label.VESSEL])
        for name in ("esophagus", *organs.AIRWAYS):
            self._tube(canvas, name, z, Label.ESOPHAGUS, tissue[Label.ESOPHAGUS])
        for name in organs.AIRWAYS:
            ends, radii, _ = self.tubes[name].cut(z, 1.5)
            canvas.lines(ends, radii, Label.AIRWAY, tissue[Label.AIRWAY])
        fat = (Label.FAT, Label.MEDIASTINUM, Label.PERITONEUM)
        self._tube(canvas, "nodes", z, Label.NODE, tissue[Label.NODE], fat)

    def _organ(self, canvas: Canvas, name: str, t: float, tissue: Tissue) -> None:
        placed = self.organs[name]
        contour = placed.contour(self.body, t)
        if contour is not None:
            canvas.fill(contour, placed.organ.label, tissue[placed.organ.label], placed.organ.within)

    def _tube(
        self, canvas: Canvas, name: str, z: float, label: Label | None, hu: float, within: tuple[Label, ...] = ()
    ) -> None:
        ends, radii, _ = self.tubes[name].cut(z)
        canvas.lines(ends, radii, label, hu, within)


def make_anatomy(rng: np.random.Generator, field_mm: float, female: bool) -> Anatomy:
    """A patient whose trunk fits a field of view of `field_mm`."""
    body = random_body(rng, field_mm, female)
    pelvis = organs.organs_of("pelvis")
    chosen = organs.organs_of("chest") | organs.organs_of("belly")
    chosen |= {name: pelvis[name] for name in ("bladder", "womb" if female else "prostate")}
    bowel, loop_of = tubes.small_bowel(rng, body)
    loops = int(loop_of.max()) + 1
    return Anatomy(
        body=body,
        organs={name: place_organ(rng, organ) for name, organ in chosen.items()},
        tubes=tubes.courses(rng, body)
        | _trees(rng, body)
        | {"bowel": bowel}
        | {"nodes": _nodes(rng, body), "calcifications": _calcifications(rng, body)},
        loop_filling=rng.choice(len(BOWEL_FILLINGS), loops, p=(0.35, 0.3, 0.25, 0.1)),
        loop_contrast=rng.random(loops) < 0.5,
        loop_of=loop_of,
    )


def _trees(rng: np.random.Generator, body: Body) -> dict[str, Tubes]:
    a, b = body.cavity(0.6)
    reach = np.array([0.75 * a, 1.25 * b, 0.75 * body.level_mm])
    lungs = [tubes.tree(rng, body.point(side * 0.27, 0.0, 0.5), reach, 28, 5, 3.6) for side in (-1, 1)]
    a, b = body.cavity(1.2)
    reach = np.array([0.75 * a, 1.2 * b, 0.5 * body.level_mm])
    return {
        "lung_vessels": tubes.join(lungs),
        "liver_vessels": tubes.tree(rng, body.point(-0.38, -0.02, 1.22), reach, 11, 4, 4.2),
        "mesenteric": tubes.tree(rng, body.point(0.0, -0.12, 1.75), reach * [0.9, 0.5, 1.3], 14, 4, 2.6),
    }


def _nodes(rng: np.random.Generator, body: Body, number: int = 110) -> Tubes:
    """Normal nodes: short ovals of 4 to 7 mm in the fat of mediastinum, mesentery, armpits and groins."""
    middle = np.stack([rng.normal(0, 0.3, number), rng.uniform(-0.6, 0.35, number), rng.uniform(0.1, 2.9, number)], 1)
    u, v = rng.choice([-1, 1], number) * rng.uniform(0.75, 1.15, number), rng.uniform(-0.9, 0.2, number)
    sides = np.stack([u, v, rng.choice([0.15, 2.75], number) + rng.normal(0, 0.15, number)], 1)
    start = np.array([body.point(*p) for p in np.where(rng.random((number, 1)) < 0.5, middle, sides)])
    ends = np.stack([start, start + rng.normal(0, 2.2, start.shape)], axis=1)
    return Tubes(ends, rng.uniform(1.7, 3.3, number))


def _calcifications(rng: np.random.Generator, body: Body, number: int = 60) -> Tubes:
    """Specks of calcium, mostly along the aorta."""
    anywhere = rng.uniform([-0.8, -0.7, 0.2], [0.8, 0.7, 2.9], (number, 3))
    aorta = np.stack([np.full(number, 0.07), np.full(number, 0.27), rng.uniform(0.4, 2.1, number)], 1)
    start = np.array([body.point(*p) for p in np.where(rng.random((number, 1)) < 0.75, aorta, anywhere)])
    start += rng.normal(0, 8, (number, 3)) * [1, 1, 0]
    ends = np.stack([start, start + rng.normal(0, 2, start.shape)], axis=1)
    return Tubes(ends, rng.uniform(0.8, 1.6, number))
