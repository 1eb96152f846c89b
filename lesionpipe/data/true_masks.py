"""The phantom's true masks, read from the archive that the stage `phantom` leaves beside the slices of a part."""

import zipfile
from pathlib import Path

import cv2
import numpy as np

from lesionpipe.core.errors import UserError


def read_true_masks(path: str | Path) -> dict[tuple[str, int], np.ndarray]:
    """True masks of a `true_masks_NN.zip`: (file name, k) -> bool array (H, W) of the key slice.

    k counts a slice's lesions from 1 in the order of their rows in DL_info.csv. In the archive, lesion k of
    `000001_01_01_109.png` is the 8-bit picture `true_masks/000001_01_01_109_lesionk.png`, 255 inside. A UserError where
    the archive is missing, isn't a zip, or holds something else.
    """
    masks, again = {}, "run `dvc repro -f phantom` to draw it again"
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                stem, k = Path(member).stem.rsplit("_lesion", 1)
                picture = cv2.imdecode(np.frombuffer(archive.read(member), np.uint8), cv2.IMREAD_GRAYSCALE)
                masks[f"{stem}.png", int(k)] = picture > 0
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; true masks exist for the phantom only") from None
    except zipfile.BadZipFile:
        raise UserError(f"{path}: not a whole zip archive; {again}") from None
    except (ValueError, TypeError, cv2.error):
        raise UserError(f"{path}: {member} is no true mask; {again}") from None
    return masks
