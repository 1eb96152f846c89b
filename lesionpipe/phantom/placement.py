"""Each lesion into the right organ: hosts of the eight types, and the search for a place where a lesion fits."""

from dataclasses import dataclass

import cv2
import numpy as np

from lesionpipe.phantom.anatomy import Anatomy
from lesionpipe.phantom.canvas import Canvas, Label, fill_mask
from lesionpipe.phantom.lesions import Lesion
from lesionpipe.phantom.tissue import Tissue

GRID_MM = 2.5  # of the coarse label map on which places are searched
CANDIDATES = 40

_BELLY_FREE = (Label.PERITONEUM, Label.BOWEL, Label.COLON, Label.PANCREAS, Label.NODE, Label.STOMACH)


@dataclass(frozen=True)
class Host:
    """Where lesions of a type lie."""

    levels: tuple[float, float]  # range of t
    labels: tuple[Label, ...]  # tissues of which one holds the lesion's centre
    over: tuple[Label, ...]  # tissues that the lesion may displace
    depth: float  # least distance of the centre from the host's border, in short radii
    inside: float  # least share of the lesion within the host's own tissue


# Order of Coarse_lesion_type: bone, abdomen, mediastinum, liver, lung, kidney, soft tissue, pelvis.
HOSTS = (
    Host((0.1, 2.8), (Label.BONE,), (Label.BONE, Label.MUSCLE, Label.FAT, Label.LUNG, Label.DISC), 0.5, 0.55),
    Host((1.2, 2.1), (Label.PERITONEUM, Label.PANCREAS), _BELLY_FREE, 0.5, 0.5),
    Host((0.08, 0.85), (Label.MEDIASTINUM,), (Label.MEDIASTINUM, Label.LUNG, Label.ESOPHAGUS, Label.NODE), 0.4, 0.4),
    Host((0.92, 1.7), (Label.LIVER,), (Label.LIVER,), 0.75, 0.9),
    Host((0.05, 1.1), (Label.LUNG,), (Label.LUNG,), 0.6, 0.88),
    Host((1.4, 1.88), (Label.KIDNEY,), (Label.KIDNEY, Label.PERITONEUM), 0.35, 0.45),
    Host((0.05, 2.9), (Label.FAT, Label.MUSCLE), (Label.FAT, Label.MUSCLE, Label.NODE), 0.7, 0.85),
    Host((2.2, 2.85), (Label.PERITONEUM, Label.WOMB_PROSTATE), (*_BELLY_FREE, Label.WOMB_PROSTATE), 0.5, 0.5),
)
ALLOWED_ELSEWHERE = 0.1  # share of a lesion that may cover other tissues than `over`


def _angle(rng: np.random.Generator) -> float:
    """Long axes lie across or along the body more often than obliquely (as the real boxes' aspect ratios tell)."""
    return float(rng.integers(2) * np.pi / 2 + rng.normal(0, 0.45))


class LevelMap:
    """Coarse labels of one level, on which several lesions can be placed one after the other."""

    def __init__(self, anatomy: Anatomy, tissue: Tissue, z: float, field_mm: float):
        self.canvas = Canvas(int(np.ceil(field_mm / GRID_MM)), GRID_MM)
        self.z = z
        anatomy.paint(self.canvas, z, tissue, fine=False)
        self.free = np.ones(self.canvas.label.shape, bool)

    def place(self, rng: np.random.Generator, lesion: Lesion) -> Lesion | None:
        """The lesion at a random place and angle where it fits its host at this level, else None."""
        host = HOSTS[lesion.kind - 1]
        hosting = np.isin(self.canvas.label, host.labels) & self.free
        depth = cv2.distanceTransform(hosting.astype(np.uint8), cv2.DIST_L2, 3) * GRID_MM
        rows, columns = np.nonzero(depth >= max(host.depth * lesion.radii[1], 0.8 * GRID_MM))
        if not len(rows):
            return None
        over = np.isin(self.canvas.label, host.over) & self.free
        for pick in rng.integers(len(rows), size=CANDIDATES):
            x, y = self.canvas.to_mm([columns[pick], rows[pick]]) + rng.uniform(-0.5, 0.5, 2) * GRID_MM
            placed = lesion.at(float(x), float(y), lesion.centre[2], _angle(rng))
            covered = self._covered(placed)
            share = [mask[covered].mean() if covered.any() else 0.0 for mask in (hosting, over)]
            if share[0] >= host.inside and share[1] >= 1 - ALLOWED_ELSEWHERE:
                return placed
        return None

    def label_at(self, lesion: Lesion) -> Label:
        """Tissue at the lesion's centre."""
        column, row = np.clip(np.rint(self.canvas.to_px(lesion.centre[:2])).astype(int), 0, self.canvas.size - 1)
        return Label(int(self.canvas.label[row, column]))

    def occupy(self, lesion: Lesion, margin: float = 1.3) -> None:
        """Keep later lesions away from this one."""
        self.free &= ~self._covered(lesion, margin)

    def _covered(self, lesion: Lesion, scale: float = 1.0) -> np.ndarray:
        contour = lesion.contour(self.z, scale)
        if contour is None:
            return np.zeros_like(self.free)
        return fill_mask(self.free.shape, self.canvas.to_px(contour)).astype(bool)
