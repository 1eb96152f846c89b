"""The phantom's files of a part: official slices, true masks, rows of DL_info.csv; equal bytes for equal seeds."""

import zipfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lesionpipe.core.files import atomic_path
from lesionpipe.core.formats import write_csv
from lesionpipe.core.parallel import parallel_map
from lesionpipe.phantom.plan import Patient, plan_patient
from lesionpipe.phantom.render import random_texture, render_slice
from lesionpipe.phantom.settings import PhantomSettings
from lesionpipe.phantom.table import lesion_table, patient_rows

PNG_LEVEL = 1  # noise hardly compresses, so a higher level only costs time
MASK_FOLDER = "true_masks"
_DATE = (1980, 1, 1, 0, 0, 0)


class _PatientFiles(NamedTuple):
    slices: dict[str, bytes]  # member of the archive -> PNG
    masks: dict[str, bytes]
    rows: list[tuple]  # of DL_info.csv


def write_part(part: str, settings: PhantomSettings, folder: Path, workers: int = 0) -> None:
    """Write `Images_png_NN.zip`, `true_masks_NN.zip` and `DL_info.csv` (its rows alone) of part NN into a folder.

    In the archive of masks, lesion k of `000001_01_01_109.png` is `true_masks/000001_01_01_109_lesionk.png`, an 8-bit
    picture with 255 inside; k counts a slice's lesions from 1 in the order of their rows.

    The content depends on the settings and the part alone, not on other parts or the number of workers (0: one per
    core).
    """
    draw = partial(_draw_patient, settings, part)
    patients = parallel_map(draw, range(settings.patients), f"phantom {part}", workers, unit="patient")
    folder, rows = Path(folder), []
    with (
        atomic_path(folder / f"Images_png_{part}.zip") as images_path,
        atomic_path(folder / f"true_masks_{part}.zip") as masks_path,
        zipfile.ZipFile(images_path, "w") as images,
        zipfile.ZipFile(masks_path, "w") as masks,
    ):
        for patient in patients:
            _add(images, patient.slices)
            _add(masks, patient.masks)
            rows += patient.rows
    write_csv(folder / "DL_info.csv", lesion_table(rows))


def _add(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        info = zipfile.ZipInfo(name, _DATE)
        info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every operating system
        archive.writestr(info, content)


def _draw_patient(settings: PhantomSettings, part: str, index: int) -> _PatientFiles:
    """All that the files hold of one patient."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # patients are spread over processes already
    try:
        return _render_patient(plan_patient(settings, part, index), settings.seed)
    finally:
        cv2.setNumThreads(threads)


def _render_patient(patient: Patient, seed: int) -> _PatientFiles:
    texture = random_texture(np.random.default_rng([seed, patient.number, 3]))
    slices, masks = {}, {}
    for scan in patient.scans:
        for number in scan.stored:
            picture = render_slice(patient, scan, number, texture, seed)
            slices[f"Images_png/{scan.name}/{number:03d}.png"] = _png(picture, PNG_LEVEL)
        for key in scan.key_slices:
            for k, lesion in enumerate(key.lesions, start=1):
                mask = scan.section(lesion, key.number).full(scan.size)
                name = f"{MASK_FOLDER}/{scan.name}_{key.number:03d}_lesion{k}.png"
                masks[name] = _png(mask.astype(np.uint8) * 255, 6)
    return _PatientFiles(slices, masks, patient_rows(patient, seed))


def _png(picture: np.ndarray, level: int) -> bytes:
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes()
