"""The phantom's DL_info.csv: the 18 official columns in the official text forms."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from lesionpipe.phantom.body import LEVELS
from lesionpipe.phantom.lesions import Lesion
from lesionpipe.phantom.measure import diameters, recist
from lesionpipe.phantom.plan import TRAIN, KeySlice, Patient, Scan
from lesionpipe.phantom.statistics import KINDS

DL_INFO_COLUMNS = [
    *("File_name", "Patient_index", "Study_index", "Series_ID", "Key_slice_index"),
    *("Measurement_coordinates", "Bounding_boxes", "Lesion_diameters_Pixel_", "Normalized_lesion_location"),
    *("Coarse_lesion_type", "Possibly_noisy", "Slice_range", "Spacing_mm_px_", "Image_size"),
    *("DICOM_windows", "Patient_gender", "Patient_age", "Train_Val_Test"),
]
DRAWN_BOX_MARGIN_PX = 5  # of the official boxes around the RECIST end points
NOISY = 0.003  # share of rows flagged Possibly_noisy (the flag only)
BODY_SHARE = (0.3, 0.86)  # normalised z of the tips of the lungs and the end of the pelvis


def lesion_table(rows: list[tuple]) -> pd.DataFrame:
    """The table of `patient_rows`, patient after patient; the k-th row of a file is lesion k of its true masks."""
    return pd.DataFrame(rows, columns=DL_INFO_COLUMNS)


def patient_rows(patient: Patient, seed: int) -> list[tuple]:
    """A patient's rows, ordered by file name; coordinates and slice numbers count from 1."""
    rng = np.random.default_rng([seed, patient.number, 1])
    return [
        _row(rng, patient, scan, key, lesion)
        for scan in patient.scans
        for key in scan.key_slices
        for lesion in key.lesions
    ]


def _row(rng: np.random.Generator, patient: Patient, scan: Scan, key: KeySlice, lesion: Lesion) -> tuple:
    true = scan.section(lesion, key.number)
    points = recist(true.crop) + [true.x, true.y] + 1  # the table counts from 1
    low, high = points.min(axis=0) - DRAWN_BOX_MARGIN_PX, points.max(axis=0) + DRAWN_BOX_MARGIN_PX
    return (
        scan.file_name(key.number),
        patient.number,
        scan.study,
        1,
        key.number,
        _text(points.ravel()),
        _text([*low, *high]),
        _text(diameters(points)),
        _text(_location(patient, scan, key, points)),
        lesion.kind if patient.split != TRAIN else -1,
        int(rng.random() < NOISY),
        _text(key.slice_range),
        _text([scan.spacing, scan.spacing, scan.interval]),
        _text([scan.size, scan.size]),
        _window(rng, lesion),
        "F" if patient.female else "M",
        float(patient.age),
        patient.split,
    )


def _text(values: Iterable[float]) -> str:
    return ", ".join(f"{float(value):.6g}" for value in values)


def _location(patient: Patient, scan: Scan, key: KeySlice, points: np.ndarray) -> tuple[float, float, float]:
    """Relative to the body's bounding box in the slice, and along the body."""
    z = scan.z(key.number)
    outline = scan.canvas().to_px(patient.anatomy.body.outer(patient.anatomy.body.level(z)))
    low, high = outline.min(axis=0), outline.max(axis=0)
    x, y = (points.mean(axis=0) - 1 - low) / (high - low)
    along = np.interp(patient.anatomy.body.level(z), LEVELS, BODY_SHARE)
    return float(x), float(y), float(along)


def _window(rng: np.random.Generator, lesion: Lesion) -> str:
    wide = {"lung": 0.8, "bone": 0.7}.get(KINDS[lesion.kind - 1], 0.0)
    if rng.random() < wide:
        return "-1500, 500"
    return "-160, 240" if rng.random() < 0.02 else "-175, 275"
