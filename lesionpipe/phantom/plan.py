"""Who is in the phantom: patients, their scans, key slices and lesions, all from seed, part and the patient's number.

Nothing is drawn at full size here, so the whole table of annotations comes out of it in seconds.
"""

from dataclasses import dataclass, replace

import numpy as np

from lesionpipe.phantom import statistics
from lesionpipe.phantom.anatomy import Anatomy, make_anatomy
from lesionpipe.phantom.canvas import Canvas, Label
from lesionpipe.phantom.lesions import Lesion, LesionSection, random_lesion, random_look, section
from lesionpipe.phantom.measure import diameters, recist
from lesionpipe.phantom.placement import HOSTS, LevelMap
from lesionpipe.phantom.settings import PhantomSettings
from lesionpipe.phantom.tissue import Tissue, random_tissue

TRAIN, VAL, TEST = 1, 2, 3  # Train_Val_Test
HELD_OUT = 0.15  # share of the patients in each of val and test
SMALLEST_PX = 4.0  # a lesion's long diameter
MISSING = 0.05  # share of key slices one of whose neighbours isn't there
ATTEMPTS = 12
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
    interval: float  # mm between slices
    size: int
    spacing: float
    offset: tuple[float, float]  # mm of the body from the picture's centre
    tissue: Tissue
    noise_hu: float
    key_slices: tuple[KeySlice, ...]

    @property
    def name(self) -> str:
        return f"{self.patient:06d}_{self.study:02d}_01"

    @property
    def stored(self) -> tuple[int, ...]:
        return tuple(sorted({n for key in self.key_slices for n in key.stored}))

    @property
    def lesions(self) -> tuple[Lesion, ...]:
        return tuple(lesion for key in self.key_slices for lesion in key.lesions)

    def z(self, number: int) -> float:
        """Place of a slice in mm."""
        return FIRST_Z_MM + (number - 1) * self.interval

    def file_name(self, number: int) -> str:
        return f"{self.name}_{number:03d}.png"

    def canvas(self) -> Canvas:
        return Canvas(self.size, self.spacing, self.offset)

    def section(self, lesion: Lesion, number: int) -> LesionSection:
        """True mask of a lesion in a slice that it reaches."""
        return section(self.canvas().to_px(lesion.contour(self.z(number))), self.size)


@dataclass(frozen=True)
class Patient:
    """A patient with all scans."""

    number: int  # Patient_index
    split: int
    female: bool
    age: int
    anatomy: Anatomy
    scans: tuple[Scan, ...]


def splits(part: str, settings: PhantomSettings) -> np.ndarray:
    """TRAIN, VAL or TEST for each patient of a part (n,): 70, 15 and 15 %, at least one of each; extra ones TEST."""
    n = settings.patients_per_part
    held_out = max(1, round(HELD_OUT * n))
    made = np.repeat([VAL, TEST, TRAIN], [held_out, held_out, n - 2 * held_out])
    dealt_out = np.random.default_rng([settings.seed, int(part)]).permutation(made)
    return np.append(dealt_out, np.full(settings.extra_test_patients, TEST))


def patient_number(part: str, index: int, settings: PhantomSettings) -> int:
    """Patient_index of a part's patient: counted through all parts, the extra test patients in a range of their own."""
    extra = index - settings.patients_per_part
    if extra < 0:
        return (int(part) - 1) * settings.patients_per_part + index + 1
    return FIRST_EXTRA_NUMBER + (int(part) - 1) * MOST_EXTRA + extra + 1


def plan_patient(settings: PhantomSettings, part: str, index: int) -> Patient:
    """The patient with 0-based `index` within a part; depends on nothing but the settings, the part and the index."""
    rng = np.random.default_rng([settings.seed, int(part), index, 0])
    number = patient_number(part, index, settings)
    female = bool(rng.random() < 0.41)
    spacing = statistics.spacing(rng, settings.image_size)
    anatomy = make_anatomy(rng, spacing * settings.image_size, female)
    wanted = 1 + int(rng.binomial(2 * (settings.key_slices_per_patient - 1), 0.5))
    scans: list[Scan] = []
    while wanted > 0:
        here = int(min(wanted, rng.integers(1, 4)))
        scan = _plan_scan(rng, settings, anatomy, number, len(scans) + 1, spacing, here)
        wanted -= len(scan.key_slices)
        scans.append(scan)
    age = int(np.clip(rng.normal(55, 15), 4, 87))
    return Patient(number, int(splits(part, settings)[index]), female, age, anatomy, tuple(scans))


def _plan_scan(
    rng: np.random.Generator,
    settings: PhantomSettings,
    anatomy: Anatomy,
    patient: int,
    study: int,
    spacing: float,
    wanted: int,
) -> Scan:
    """A scan with up to `wanted` key slices, whose lesions don't reach into each other's slices."""
    interval = statistics.slice_interval(rng)
    field = spacing * settings.image_size
    offset = (float(rng.normal(0, 0.012 * field)), float(rng.normal(-0.03 * field, 0.015 * field)))
    noise = float(rng.uniform(9, 18) * (1.25 if interval < 2 else 1.0))
    scan = Scan(patient, study, interval, settings.image_size, spacing, offset, random_tissue(rng), noise, ())
    keys: list[KeySlice] = []
    for _ in range(wanted):
        key = _plan_key_slice(rng, scan, anatomy, keys)
        if key is not None:
            keys.append(key)
    return replace(scan, key_slices=tuple(sorted(keys, key=lambda key: key.number)))


def _plan_key_slice(rng: np.random.Generator, scan: Scan, anatomy: Anatomy, others: list[KeySlice]) -> KeySlice | None:
    """One more key slice, or None where the scan has no room left (which its first one always has)."""
    size = statistics.diameters_mm(rng, SMALLEST_PX * scan.spacing)
    number_of_lesions = 1 + int(rng.choice(3, p=statistics.LESIONS_PER_SLICE))
    for attempt in range(10 * ATTEMPTS):
        if attempt >= ATTEMPTS:  # a size that no organ can hold here
            if others:
                return None
            size = _at_least(0.85 * size[0], 0.85 * size[1], scan.spacing)
        kind = 1 + int(rng.choice(8, p=statistics.kind_weights(size[0])))
        number = _slice_number(rng, scan, anatomy, HOSTS[kind - 1].levels)
        if _crowded(scan, number, size[0], others):
            continue
        level = LevelMap(anatomy, scan.tissue, scan.z(number), scan.spacing * scan.size)
        lesions = _fit_lesions(rng, scan, level, number, kind, size, number_of_lesions)
        if lesions:
            return KeySlice(number, tuple(lesions), *_neighbours(rng, number, scan.interval))
    raise RuntimeError(f"no place for a lesion of {size[0]:.0f} mm in patient {scan.patient}")


def _slice_number(rng: np.random.Generator, scan: Scan, anatomy: Anatomy, levels: tuple[float, float]) -> int:
    z = rng.uniform(*levels) * anatomy.body.level_mm
    return 1 + round((z - FIRST_Z_MM) / scan.interval)


def _crowded(scan: Scan, number: int, long_mm: float, others: list[KeySlice]) -> bool:
    """Whether lesions of this key slice would show in another one's slices, or the other way round."""
    for other in others:
        tallest = max([0.7 * long_mm, *(lesion.height for lesion in other.lesions)])
        if abs(scan.z(number) - scan.z(other.number)) < 1.3 * tallest + 4 * scan.interval:
            return True
    return False


def _fit_lesions(
    rng: np.random.Generator, scan: Scan, level: LevelMap, number: int, kind: int, size: tuple[float, float], count: int
) -> list[Lesion]:
    """The wanted lesion at this level, with up to `count - 1` further ones of the same type and at most its size."""
    placed: list[Lesion] = []
    for i in range(count):
        shrink = 1.0 if i == 0 else float(rng.uniform(0.45, 1.0))
        wanted = _at_least(shrink * size[0], shrink * size[1], scan.spacing)
        lesion = random_lesion(rng, kind, wanted, scan.tissue, HOSTS[kind - 1].labels[0])
        z = level.z + float(rng.uniform(-0.25, 0.25)) * lesion.height
        lesion = level.place(rng, _true_to_size(lesion.at(0.0, 0.0, z, 0.0), scan, number, wanted[0]))
        if lesion is None:
            break
        host = level.label_at(lesion)
        if host is Label.MUSCLE:
            lesion = replace(lesion, look=random_look(rng, kind, wanted, scan.tissue, host))
        level.occupy(lesion)
        placed.append(lesion)
    return placed


def _at_least(long_mm: float, short_mm: float, spacing: float) -> tuple[float, float]:
    """Diameters that a pixel grid can show."""
    return max(long_mm, SMALLEST_PX * spacing), max(short_mm, 0.6 * SMALLEST_PX * spacing)


def _true_to_size(lesion: Lesion, scan: Scan, number: int, long_mm: float) -> Lesion:
    """The lesion scaled so that its long diameter, measured in its key slice, is `long_mm`."""
    for _ in range(2):
        long, _ = diameters(recist(scan.section(lesion, number).crop))
        lesion = lesion.grown(float(np.clip(long_mm / ((long + 0.5) * scan.spacing), 0.5, 2)))
    return lesion


def _neighbours(rng: np.random.Generator, number: int, interval: float) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Slice_range, and the slices in the archive: all that 2 mm either way need; one of them is sometimes missing."""
    reach = int(np.ceil(2 / interval))
    first, last = max(number - reach, 1), number + reach
    missing = rng.random()
    if missing < MISSING / 2:  # the scan ends here
        last = number
    stored = list(range(first, last + 1))
    if MISSING / 2 <= missing < MISSING:  # a file is absent
        stored.remove(number - 1 if number - 1 in stored else number + 1)
    return (first, last), tuple(stored)
