"""Who is in the phantom: patients, their scans, key slices and lesions, all from seed, part and the patient's number.

Nothing is drawn at full size here, so the whole table of annotations comes out of it in seconds.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.random import Generator

from lesionpipe.params.sections import Phantom
from lesionpipe.phantom import lesions
from lesionpipe.phantom.anatomy import Anatomy
from lesionpipe.phantom.canvas import Canvas, Label, Tissue, any_of
from lesionpipe.phantom.lesions import Kind, Lesion

TRAIN, VAL, TEST = 1, 2, 3  # Train_Val_Test
HELD_OUT = 0.15  # share of the patients in each of val and test
SLICE_INTERVALS_MM, SLICE_INTERVAL_SHARES = (5.0, 1.0, 2.5, 2.0), (0.5, 0.26, 0.12, 0.12)  # the real ones
SPACING_MM = (0.81, 0.085)  # of a 512 px slice: median and standard deviation; real 0.28 to 0.98
SPACING_RANGE_MM = (0.62, 0.95)
# Shares of slices with 1, 2 and 3; the real 0.994, 0.006 and 0.0001 would hardly show up in a small phantom.
LESIONS_PER_SLICE = (0.9, 0.08, 0.02)
SMALLEST_PX = 4.0  # a lesion's long diameter
MISSING = 0.05  # share of key slices one of whose neighbours isn't there
ATTEMPTS = 12  # to place a key slice before its lesions get smaller
GRID_MM = 2.5  # of the coarse picture on which places are searched
CANDIDATES = 40  # places tried in one level
ALLOWED_ELSEWHERE = 0.1  # share of a lesion that may cover other tissues than `over`
FIRST_Z_MM = -20.0  # of slice 1 of every scan
FIRST_EXTRA_NUMBER, MOST_EXTRA = 990_000, 100  # numbers of extra test patients: above all others, six digits


@dataclass(frozen=True)
class KeySlice:
    """An annotated slice."""

    number: int  # 1-based, as in the file name
    lesions: tuple[Lesion, ...]
    slice_range: tuple[int, int]  # Slice_range
    stored: tuple[int, ...]  # slices that are in the archive for it


@dataclass(frozen=True)
class Scan:
    """One series of one study."""

    patient: int
    study: int
    size: int
    spacing: float
    interval: float  # mm between slices
    offset: tuple[float, float]  # mm of the body from the picture's centre
    noise_hu: float
    tissue: Tissue
    key_slices: tuple[KeySlice, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.patient:06d}_{self.study:02d}_01"

    def z(self, number: int) -> float:
        """Place of a slice in mm."""
        return FIRST_Z_MM + (number - 1) * self.interval

    def canvas(self) -> Canvas:
        return Canvas(self.size, self.spacing, self.tissue, self.offset)

    def mask(self, lesion: Lesion, number: int) -> np.ndarray:
        """True mask (size, size) of a lesion in a slice that it reaches, bool."""
        return self.canvas().inside(lesion.contour(self.z(number)))


@dataclass(frozen=True)
class Patient:
    """A patient with all scans."""

    number: int  # Patient_index
    split: int
    female: bool
    age: int
    anatomy: Anatomy
    scans: tuple[Scan, ...]


class LevelMap:
    """Coarse labels of one level, on which several lesions can be placed one after the other."""

    def __init__(self, anatomy: Anatomy, tissue: Tissue, z: float, field_mm: float):
        self.canvas = Canvas(int(np.ceil(field_mm / GRID_MM)), GRID_MM, tissue)
        self.z = z
        anatomy.paint(self.canvas, z, fine=False)
        self.free = np.ones(self.canvas.label.shape, bool)

    def place(self, rng: Generator, lesion: Lesion) -> tuple[Lesion, Label] | None:
        """The lesion at a random place and angle that fits it, and the tissue there, or None; later ones keep away."""
        kind = lesion.kind
        hosting = any_of(self.canvas.label, kind.host) & self.free
        depth = cv2.distanceTransform(hosting.astype(np.uint8), cv2.DIST_L2, 3) * GRID_MM
        rows, columns = np.nonzero(depth >= max(kind.depth * lesion.radii[1], 0.8 * GRID_MM))
        if not len(rows):
            return None
        over = any_of(self.canvas.label, kind.over) & self.free
        for pick in rng.integers(len(rows), size=CANDIDATES):
            x, y = ([columns[pick], rows[pick]] - self.canvas.origin) * GRID_MM + rng.uniform(-0.5, 0.5, 2) * GRID_MM
            # long axes lie across or along the body more often than obliquely (as the real boxes' aspect ratios tell)
            tilt = rng.integers(2) * np.pi / 2 + rng.normal(0, 0.45)
            placed = replace(lesion, centre=(x, y, lesion.centre[2]), tilt=tilt)
            covered = self.canvas.inside(placed.contour(self.z))
            inside, allowed = (mask[covered].mean() if covered.any() else 0.0 for mask in (hosting, over))
            if inside >= kind.inside and allowed >= 1 - ALLOWED_ELSEWHERE:
                self.free &= ~self.canvas.inside(placed.contour(self.z, 1.3))
                return placed, Label(self.canvas.label[rows[pick], columns[pick]])
        return None


def splits(part: str, settings: Phantom) -> np.ndarray:
    """TRAIN, VAL or TEST for each patient of a part (n,): 70, 15 and 15 %, at least one of each; extra ones TEST."""
    n = settings.patients_per_part
    held_out = max(1, round(HELD_OUT * n))
    made = np.repeat([VAL, TEST, TRAIN], [held_out, held_out, n - 2 * held_out])
    dealt_out = np.random.default_rng([settings.seed, int(part)]).permutation(made)
    return np.append(dealt_out, np.full(settings.extra_test_patients, TEST))


def patient_number(part: str, index: int, settings: Phantom) -> int:
    """Patient_index of a part's patient: counted through all parts, the extra test patients in a range of their own."""
    extra = index - settings.patients_per_part
    if extra < 0:
        return (int(part) - 1) * settings.patients_per_part + index + 1
    return FIRST_EXTRA_NUMBER + (int(part) - 1) * MOST_EXTRA + extra + 1


def plan_patient(settings: Phantom, part: str, index: int) -> Patient:
    """The patient with 0-based `index` within a part; depends on nothing but the settings, the part and the index."""
    rng = np.random.default_rng([settings.seed, int(part), index, 0])
    number, size = patient_number(part, index, settings), settings.image_size
    female = rng.random() < 0.41
    # smaller pictures show the same field of view, so their pixels are larger
    spacing = round(float(np.clip(rng.normal(*SPACING_MM), *SPACING_RANGE_MM)), 3) * 512 / size
    anatomy = Anatomy(rng, spacing * size, female)
    wanted = 1 + rng.binomial(2 * (settings.key_slices_per_patient - 1), 0.5)
    scans: list[Scan] = []
    while wanted > 0:
        here = min(wanted, rng.integers(1, 4))
        scan = _random_scan(rng, number, len(scans) + 1, size, spacing)
        for _ in range(here):
            scan = _with_key_slice(rng, scan, anatomy, settings.context_mm)
        wanted -= len(scan.key_slices)
        scans.append(replace(scan, key_slices=tuple(sorted(scan.key_slices, key=lambda key: key.number))))
    age = int(np.clip(rng.normal(55, 15), 4, 87))
    return Patient(number, int(splits(part, settings)[index]), female, age, anatomy, tuple(scans))


def _random_scan(rng: Generator, patient: int, study: int, size: int, spacing: float) -> Scan:
    interval, field = float(rng.choice(SLICE_INTERVALS_MM, p=SLICE_INTERVAL_SHARES)), spacing * size
    offset = (rng.normal(0, 0.012 * field), rng.normal(-0.03 * field, 0.015 * field))
    noise = rng.uniform(9, 18) * (1.25 if interval < 2 else 1.0)
    return Scan(patient, study, size, spacing, interval, offset, noise, Tissue(rng))


def _with_key_slice(rng: Generator, scan: Scan, anatomy: Anatomy, context_mm: float) -> Scan:
    """The scan with one more key slice, or as it is where it has no room left (which its first one always has)."""
    size = lesions.diameters_mm(rng, SMALLEST_PX * scan.spacing)
    number_of_lesions = 1 + rng.choice(3, p=LESIONS_PER_SLICE)
    for attempt in range(10 * ATTEMPTS):
        if attempt >= ATTEMPTS:  # a size that no organ can hold here
            if scan.key_slices:
                return scan
            size = _at_least(0.85 * size[0], 0.85 * size[1], scan.spacing)
        kind = lesions.KINDS[rng.choice(8, p=lesions.kind_weights(size[0]))]
        z = rng.uniform(*kind.levels) * anatomy.body.level_mm
        number = 1 + round((z - FIRST_Z_MM) / scan.interval)
        if _crowded(scan, number, size[0]):
            continue
        level = LevelMap(anatomy, scan.tissue, scan.z(number), scan.spacing * scan.size)
        placed = _fit_lesions(rng, scan, level, number, kind, size, number_of_lesions)
        if placed:
            key = KeySlice(number, tuple(placed), *_neighbours(rng, number, scan.interval, context_mm))
            return replace(scan, key_slices=(*scan.key_slices, key))
    raise RuntimeError(f"no place for a lesion of {size[0]:.0f} mm in patient {scan.patient}")


def _crowded(scan: Scan, number: int, long_mm: float) -> bool:
    """Whether lesions of this key slice would show in another one's slices, or the other way round."""
    return any(
        abs(scan.z(number) - scan.z(key.number)) < 1.3 * max(0.7 * long_mm, lesion.height) + 4 * scan.interval
        for key in scan.key_slices
        for lesion in key.lesions
    )


def _fit_lesions(
    rng: Generator, scan: Scan, level: LevelMap, number: int, kind: Kind, size: tuple, count: int
) -> list[Lesion]:
    """The wanted lesion at this level, with up to `count - 1` further ones of the same type and at most its size."""
    placed: list[Lesion] = []
    for i in range(count):
        shrink = 1.0 if i == 0 else rng.uniform(0.45, 1.0)
        wanted = _at_least(shrink * size[0], shrink * size[1], scan.spacing)
        lesion = lesions.random_lesion(rng, kind, wanted, scan.tissue, kind.host[0])
        z = level.z + rng.uniform(-0.25, 0.25) * lesion.height
        found = level.place(rng, _true_to_size(replace(lesion, centre=(0.0, 0.0, z)), scan, number, wanted[0]))
        if found is None:
            break
        lesion, host = found
        if host is Label.MUSCLE:
            lesion = replace(lesion, look=lesions.random_look(rng, kind, wanted, scan.tissue, host))
        placed.append(lesion)
    return placed


def _at_least(long_mm: float, short_mm: float, spacing: float) -> tuple[float, float]:
    """Diameters that a pixel grid can show."""
    return max(long_mm, SMALLEST_PX * spacing), max(short_mm, 0.6 * SMALLEST_PX * spacing)


def _true_to_size(lesion: Lesion, scan: Scan, number: int, long_mm: float) -> Lesion:
    """The lesion scaled so that its long diameter, measured in its key slice, is `long_mm`."""
    for _ in range(2):
        long, _ = lesions.axis_lengths(lesions.recist(scan.mask(lesion, number)))
        factor = np.clip(long_mm / ((long + 0.5) * scan.spacing), 0.5, 2)
        lesion = replace(lesion, radii=tuple(r * factor for r in lesion.radii), height=lesion.height * factor)
    return lesion


def _neighbours(
    rng: Generator, number: int, interval: float, context_mm: float
) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Slice_range, and the slices in the archive: all that `context_mm` either way need; one is sometimes missing."""
    reach = int(np.ceil(context_mm / interval))
    first, last = max(number - reach, 1), number + reach
    missing = rng.random()
    if missing < MISSING / 2:  # the scan ends here
        last = number
    stored = list(range(first, last + 1))
    if MISSING / 2 <= missing < MISSING:  # a file is absent
        stored.remove(number - 1 if number - 1 in stored else number + 1)
    return (first, last), tuple(stored)
