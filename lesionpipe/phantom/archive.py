"""The phantom's zip archives: slices in the official layout, true masks beside them; equal bytes for equal seeds."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lesionpipe import params
from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path
from lesionpipe.core.parallel import parallel_map
from lesionpipe.phantom.plan import plan_patient
from lesionpipe.phantom.render import random_texture, render_slice

PNG_LEVEL = 1  # noise hardly compresses, so a higher level only costs time
MASK_FOLDER = "true_masks"
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class _Job:
    settings: params.Phantom
    part: str
    index: int


def write_part(part: str, settings: params.Phantom, folder: Path, workers: int = 0) -> None:
    """Write `Images_png_NN.zip` and `true_masks_NN.zip` of part NN into a folder.

    The content depends on the settings and the part alone, not on other parts or the number of workers (0: one per
    core).
    """
    jobs = [_Job(settings, part, index) for index in range(settings.patients_per_part)]
    patients = parallel_map(_patient_files, jobs, f"phantom {part}", workers, unit="patient")
    folder = Path(folder)
    with (
        atomic_path(folder / f"Images_png_{part}.zip") as images_path,
        atomic_path(folder / f"true_masks_{part}.zip") as masks_path,
        zipfile.ZipFile(images_path, "w") as images,
        zipfile.ZipFile(masks_path, "w") as masks,
    ):
        for slices, true in patients:
            _add(images, slices)
            _add(masks, true)


def _add(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        info = zipfile.ZipInfo(name, _DATE)
        info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every operating system
        archive.writestr(info, content)


def _patient_files(job: _Job) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """A patient's slices and true masks as PNG: member name -> content."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # patients are spread over processes already
    try:
        return _render_patient(job)
    finally:
        cv2.setNumThreads(threads)


def _render_patient(job: _Job) -> tuple[dict[str, bytes], dict[str, bytes]]:
    patient = plan_patient(job.settings, job.part, job.index)
    texture = random_texture(np.random.default_rng([job.settings.seed, patient.number, 3]))
    slices, masks = {}, {}
    for scan in patient.scans:
        for number in scan.stored:
            picture = render_slice(patient, scan, number, texture, job.settings.seed)
            slices[f"Images_png/{scan.name}/{number:03d}.png"] = _png(picture, PNG_LEVEL)
        for key in scan.key_slices:
            for k, lesion in enumerate(key.lesions, start=1):
                mask = scan.section(lesion, key.number).full(scan.size)
                name = f"{MASK_FOLDER}/{scan.name}_{key.number:03d}_lesion{k}.png"
                masks[name] = _png(mask.astype(np.uint8) * 255, 6)
    return slices, masks


def _png(picture: np.ndarray, level: int) -> bytes:
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes()


def read_true_masks(path: str | Path) -> dict[tuple[str, int], np.ndarray]:
    """True masks of a `true_masks_NN.zip`: (file name, k) -> bool array (H, W) of the key slice.

    k counts a slice's lesions from 1 in the order of their rows in DL_info.csv. In the archive, lesion k of
    `000001_01_01_109.png` is the 8-bit picture `true_masks/000001_01_01_109_lesionk.png`, 255 inside.

    Raises:
        UserError: the archive is missing or isn't a zip.
    """
    masks = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                stem, k = Path(member).stem.rsplit("_lesion", 1)
                picture = cv2.imdecode(np.frombuffer(archive.read(member), np.uint8), cv2.IMREAD_GRAYSCALE)
                masks[f"{stem}.png", int(k)] = picture > 0
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; true masks exist for the phantom only") from None
    except zipfile.BadZipFile:
        raise UserError(f"{path}: not a zip archive; delete it and run the download stage again") from None
    return masks
