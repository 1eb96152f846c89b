"""From plan to CT slices: anatomy, lesions, the scanner's blur, unevenness of tissue and correlated noise."""

from dataclasses import dataclass

import cv2
import numpy as np

from lesionpipe.phantom.canvas import Canvas, Label, fill_mask
from lesionpipe.phantom.lesions import Lesion
from lesionpipe.phantom.plan import Patient, Scan
from lesionpipe.phantom.tissue import tissue_table

BLUR_MM = 0.65  # standard deviation of the scanner's point spread
NOISE_MM = 0.65  # standard deviation of the kernel that correlates the noise
TEXTURE_PX = 96  # side of the coarse fields of uneven tissue
MOVABLE = (Label.BOWEL, Label.COLON, Label.PANCREAS, Label.STOMACH, Label.VESSEL, Label.HEART, Label.MUSCLE, Label.NODE)


@dataclass(frozen=True)
class Texture:
    """A smooth random field that changes slowly with z: a rotation between two fixed fields."""

    fields: np.ndarray  # (2, TEXTURE_PX, TEXTURE_PX), standard deviation 1

    def at(self, z: float, size: int) -> np.ndarray:
        """Field (size, size) at z mm."""
        angle = z / 6.0
        mixed = np.cos(angle) * self.fields[0] + np.sin(angle) * self.fields[1]
        return cv2.resize(mixed, (size, size), interpolation=cv2.INTER_CUBIC)


def random_texture(rng: np.random.Generator) -> Texture:
    fields = [cv2.GaussianBlur(_white(rng, TEXTURE_PX), (0, 0), 0.8) for _ in range(2)]
    return Texture(np.stack([field / field.std() for field in fields]))


def _white(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.standard_normal((size, size), dtype=np.float32)


def render_slice(patient: Patient, scan: Scan, number: int, texture: Texture, seed: int) -> np.ndarray:
    """One slice as stored: uint16 (size, size), HU + 32768."""
    z = scan.z(number)
    canvas = scan.canvas()
    patient.anatomy.paint(canvas, z, scan.tissue)
    field = texture.at(z, scan.size)
    uneven = np.zeros(256, np.float32)
    for label, (*_, hu) in tissue_table().items():
        uneven[label] = hu
    canvas.hu += uneven[canvas.label] * field
    for lesion in scan.lesions:
        _draw_lesion(canvas, lesion, z, field, scan.tissue[Label.PERITONEUM])
    blurred = cv2.GaussianBlur(canvas.hu, (0, 0), BLUR_MM / scan.spacing + 0.05)
    rng = np.random.default_rng([seed, patient.number, scan.study, number, 2])
    hu = blurred + _noise(rng, scan) * _loudness(canvas)
    return (np.clip(np.rint(hu), -1024, 3071).astype(np.int32) + 32768).astype(np.uint16)


def _noise(rng: np.random.Generator, scan: Scan) -> np.ndarray:
    """Correlated noise (size, size) of standard deviation scan.noise_hu."""
    noise = cv2.GaussianBlur(_white(rng, scan.size), (0, 0), max(NOISE_MM / scan.spacing, 0.3))
    return noise * (scan.noise_hu / noise.std())


def _loudness(canvas: Canvas) -> np.ndarray:
    """Relative noise: more in the middle of the body, less in lung and air."""
    axis = np.linspace(-1, 1, canvas.size, dtype=np.float32)
    middle = 1.1 - 0.35 * (axis[:, None] ** 2 * 1.6 + axis[None] ** 2)
    quiet = np.ones(256, np.float32)
    quiet[Label.AIR], quiet[Label.TABLE], quiet[Label.LUNG], quiet[Label.AIRWAY] = 0.35, 0.5, 0.9, 0.7
    return middle * quiet[canvas.label]


def _draw_lesion(canvas: Canvas, lesion: Lesion, z: float, field: np.ndarray, fat_hu: float) -> None:
    """Blend a lesion's section at z into the slice, with its margin, rim and core."""
    outline = lesion.contour(z)
    if outline is None:
        return
    look, points = lesion.look, canvas.to_px(outline)
    if look.fat_plane_mm:
        around = lesion.contour(z, 1 + look.fat_plane_mm / lesion.radii[1])
        canvas.fill(around, Label.PERITONEUM, fat_hu, MOVABLE)
    margin = int(np.ceil(4 * look.edge_mm / canvas.spacing)) + 3
    low = np.clip(np.floor(points.min(axis=0)).astype(int) - margin, 0, canvas.size - 1)
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + margin, low + 1, canvas.size)
    part = np.s_[low[1] : high[1], low[0] : high[0]]
    shape = canvas.hu[part].shape
    mask = fill_mask(shape, points - low).astype(np.float32)
    value = np.full(shape, look.hu, np.float32)
    if look.rim_hu != look.hu:
        value[fill_mask(shape, canvas.to_px(lesion.contour(z, 0.8)) - low) == 0] = look.rim_hu
    if look.core > 0:
        core = fill_mask(shape, canvas.to_px(lesion.contour(z, look.core)) - low)
        value[core > 0] = look.core_hu
        value = cv2.GaussianBlur(value, (0, 0), 1.0 / canvas.spacing)
    value += look.texture_hu * field[part]
    weight = cv2.GaussianBlur(mask, (0, 0), max(look.edge_mm / canvas.spacing, 0.3))
    canvas.hu[part] += weight * (value - canvas.hu[part])
