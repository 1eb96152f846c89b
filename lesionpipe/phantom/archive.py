"""The phantom's files of a part: official slices, true masks, rows of DL_info.csv; equal bytes for equal seeds."""

import zipfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from itertools import islice, product
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.random import Generator

from lesionpipe.core.files import atomic_path
from lesionpipe.core.formats import write_csv
from lesionpipe.core.parallel import spread
from lesionpipe.core.progress import progress
from lesionpipe.params.sections import Phantom
from lesionpipe.phantom.lesions import Lesion, axis_lengths, recist
from lesionpipe.phantom.plan import TRAIN, KeySlice, Patient, Scan, plan_patient
from lesionpipe.phantom.render import random_texture, render_slice

DRAWN_BOX_MARGIN_PX = 5  # of the official boxes around the RECIST end points
NOISY = 0.003  # share of rows flagged Possibly_noisy (the flag only)
BODY_LEVELS, BODY_SHARE = (-0.02, 2.98), (0.3, 0.86)  # both ends of the trunk as t and as normalised z


Drawn = tuple[dict[str, bytes], dict[str, bytes], list[dict]]  # see _draw_patient


def write_parts(parts: Sequence[str], settings: Phantom, folder: Path, workers: int = 0) -> None:
    """Write `Images_png_NN.zip`, `true_masks_NN.zip` and `DL_info.csv` (its rows alone) of each part NN into folder/NN.

    In the archive of masks, lesion k of `000001_01_01_109.png` is `true_masks/000001_01_01_109_lesionk.png`, an 8-bit
    picture with 255 inside; k counts a slice's lesions from 1 in the order of their rows. The content depends on the
    settings and the part alone, not on other parts or the number of workers (0: one per core).
    """
    patients = range(settings.patients_per_part + settings.extra_test_patients)
    # all parts in one go, so that no worker waits for the last patient of a part
    drawn = spread(partial(_draw_patient, settings), list(product(parts, patients)), workers)
    with closing(drawn):
        for part in parts:
            of_part = islice(drawn, len(patients))
            _write_part(part, folder / part, progress(of_part, f"phantom {part}", len(patients), "patient"))


def _write_part(part: str, folder: Path, drawn: Iterable[Drawn]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = []
    with (
        atomic_path(folder / f"Images_png_{part}.zip") as images_path,
        atomic_path(folder / f"true_masks_{part}.zip") as masks_path,
        zipfile.ZipFile(images_path, "w") as images,
        zipfile.ZipFile(masks_path, "w") as masks,
    ):
        for slices, true_masks, rows in drawn:
            _add(images, slices)
            _add(masks, true_masks)
            table += rows
    write_csv(folder / "DL_info.csv", pd.DataFrame(table))


def _add(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every operating system
        archive.writestr(info, content)


def _draw_patient(settings: Phantom, part_and_index: tuple[str, int]) -> Drawn:
    """A patient's slices and true masks as PNG by name in the archive, and rows of DL_info.csv."""
    patient = plan_patient(settings, *part_and_index)
    texture = random_texture(np.random.default_rng([settings.seed, patient.number, 3]))
    slices, masks = {}, {}
    for scan in patient.scans:
        for number in sorted({number for key in scan.key_slices for number in key.stored}):
            picture = render_slice(patient, scan, number, texture, settings.seed)
            slices[f"Images_png/{scan.name}/{number:03d}.png"] = _png(picture)
        for key in scan.key_slices:
            for k, lesion in enumerate(key.lesions, start=1):
                mask = scan.mask(lesion, key.number).astype(np.uint8) * 255
                masks[f"true_masks/{scan.name}_{key.number:03d}_lesion{k}.png"] = _png(mask)
    return slices, masks, patient_rows(patient, settings.seed)


def _png(picture: np.ndarray) -> bytes:
    """With OpenCV's own settings: noise hardly compresses, and asking for any level takes twice the time."""
    return cv2.imencode(".png", picture)[1].tobytes()


def patient_rows(patient: Patient, seed: int) -> list[dict]:
    """A patient's rows by column, ordered by file name; the k-th row of a file is lesion k of its true masks."""
    rng = np.random.default_rng([seed, patient.number, 1])
    return [
        _row(rng, patient, scan, key, lesion)
        for scan in patient.scans
        for key in scan.key_slices
        for lesion in key.lesions
    ]


def _row(rng: Generator, patient: Patient, scan: Scan, key: KeySlice, lesion: Lesion) -> dict:
    points = recist(scan.mask(lesion, key.number)) + 1  # the table counts from 1
    low, high = points.min(axis=0) - DRAWN_BOX_MARGIN_PX, points.max(axis=0) + DRAWN_BOX_MARGIN_PX
    return {
        "File_name": f"{scan.name}_{key.number:03d}.png",
        "Patient_index": patient.number,
        "Study_index": scan.study,
        "Series_ID": 1,
        "Key_slice_index": key.number,
        "Measurement_coordinates": _text(points.ravel()),
        "Bounding_boxes": _text([*low, *high]),
        "Lesion_diameters_Pixel_": _text(axis_lengths(points)),
        "Normalized_lesion_location": _text(_location(patient, scan, key, points)),
        "Coarse_lesion_type": lesion.kind.number if patient.split != TRAIN else -1,
        "Possibly_noisy": int(rng.random() < NOISY),
        "Slice_range": _text(key.slice_range),
        "Spacing_mm_px_": _text([scan.spacing, scan.spacing, scan.interval]),
        "Image_size": _text([scan.size, scan.size]),
        "DICOM_windows": _window(rng, lesion.kind.name),
        "Patient_gender": "F" if patient.female else "M",
        "Patient_age": float(patient.age),
        "Train_Val_Test": patient.split,
    }


def _text(values: Iterable[float]) -> str:
    return ", ".join(f"{float(value):.6g}" for value in values)


def _location(patient: Patient, scan: Scan, key: KeySlice, points: np.ndarray) -> tuple[float, float, float]:
    """Relative to the body's bounding box in the slice, and along the body."""
    body = patient.anatomy.body
    t = body.level(scan.z(key.number))
    outline = scan.canvas().to_px(body.outer(t))
    low, high = outline.min(axis=0), outline.max(axis=0)
    x, y = (points.mean(axis=0) - 1 - low) / (high - low)
    return x, y, np.interp(t, BODY_LEVELS, BODY_SHARE)


def _window(rng: Generator, kind: str) -> str:
    if rng.random() < {"lung": 0.8, "bone": 0.7}.get(kind, 0.0):
        return "-1500, 500"
    return "-160, 240" if rng.random() < 0.02 else "-175, 275"
