"""From plan to CT slices: anatomy, lesions, the scanner's blur, unevenness of tissue and correlated noise."""

from functools import cache

import cv2
import numpy as np
from numpy.random import Generator

from lesionpipe.phantom.canvas import TISSUES, Canvas, Label, by_label
from lesionpipe.phantom.lesions import Lesion
from lesionpipe.phantom.plan import Patient, Scan

BLUR_MM = 0.65  # standard deviation of the scanner's point spread
NOISE_MM = 0.65  # standard deviation of the kernel that correlates the noise
TEXTURE_PX = 96  # side of the coarse fields of uneven tissue
MOVABLE = (Label.BOWEL, Label.COLON, Label.PANCREAS, Label.STOMACH, Label.VESSEL, Label.HEART, Label.MUSCLE, Label.NODE)
QUIET = {Label.AIR: 0.35, Label.TABLE: 0.5, Label.LUNG: 0.9, Label.AIRWAY: 0.7}  # noise relative to soft tissue


def random_texture(rng: Generator) -> np.ndarray:
    """Two smooth random fields (2, TEXTURE_PX, TEXTURE_PX) of standard deviation 1, between which slices rotate."""
    fields = [cv2.GaussianBlur(_white(rng, TEXTURE_PX), (0, 0), 0.8) for _ in range(2)]
    return np.stack([field / field.std() for field in fields])


def _white(rng: Generator, size: int) -> np.ndarray:
    return rng.standard_normal((size, size), dtype=np.float32)


def render_slice(patient: Patient, scan: Scan, number: int, texture: np.ndarray, seed: int) -> np.ndarray:
    """One slice as stored: uint16 (size, size), HU + 32768."""
    z, canvas = scan.z(number), scan.canvas()
    patient.anatomy.paint(canvas, z)
    mixed = np.cos(z / 6.0) * texture[0] + np.sin(z / 6.0) * texture[1]
    field = cv2.resize(mixed, (scan.size, scan.size), interpolation=cv2.INTER_CUBIC)
    uneven = {label: hu for label, (*_, hu) in TISSUES.items()}
    canvas.hu += by_label(canvas.label, uneven, 0) * field
    for key in scan.key_slices:
        for lesion in key.lesions:
            _draw_lesion(canvas, lesion, z, field)
    blurred = cv2.GaussianBlur(canvas.hu, (0, 0), BLUR_MM / scan.spacing + 0.05)
    white = _white(np.random.default_rng([seed, patient.number, scan.study, number, 2]), scan.size)
    noise = cv2.GaussianBlur(white, (0, 0), max(NOISE_MM / scan.spacing, 0.3))
    noise *= scan.noise_hu / noise.std()
    noise *= _noise_profile(scan.size) * by_label(canvas.label, QUIET, 1)
    hu = np.add(blurred, noise, out=blurred)
    return (np.clip(np.rint(hu, out=hu), -1024, 3071, out=hu) + 32768).astype(np.uint16)


@cache
def _noise_profile(size: int) -> np.ndarray:
    """Relative noise (size, size), float32: more in the middle of the body."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return 1.1 - 0.35 * (axis[:, None] ** 2 * 1.6 + axis[None] ** 2)


def _draw_lesion(canvas: Canvas, lesion: Lesion, z: float, field: np.ndarray) -> None:
    """Blend a lesion's section at z into the slice, with its margin, rim and core."""
    outline, look = lesion.contour(z), lesion.look
    if outline is None:
        return
    if look.fat_plane_mm:
        around = lesion.contour(z, 1 + look.fat_plane_mm / lesion.radii[1])
        canvas.fill(around, Label.PERITONEUM, within=MOVABLE)
    part = canvas.around(outline, int(np.ceil(4 * look.edge_mm / canvas.spacing)) + 3)
    mask = canvas.inside(outline, part).astype(np.float32)
    value = np.full(mask.shape, look.hu, np.float32)
    if look.rim_hu is not None:
        value[~canvas.inside(lesion.contour(z, 0.8), part)] = look.rim_hu
    if look.core:
        value[canvas.inside(lesion.contour(z, look.core), part)] = look.core_hu
        value = cv2.GaussianBlur(value, (0, 0), 1.0 / canvas.spacing)
    value += look.texture_hu * field[part]
    weight = cv2.GaussianBlur(mask, (0, 0), max(look.edge_mm / canvas.spacing, 0.3))
    canvas.hu[part] += weight * (value - canvas.hu[part])
