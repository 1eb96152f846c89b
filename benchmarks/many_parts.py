"""A phantom of many parts in little time: a few are drawn, the others are copies of them with patients of their own.

    python benchmarks/many_parts.py DRAWN        # what `python -m stages.phantom` would do: params.yaml to data/phantom

A copy has other patients' numbers in all names and tables and is a few HU brighter than its original, so that no two
parts share slices, which DVC's cache and the operating system would keep once. For `benchmarks/scale.py`: to draw all
patients takes longer than all else.
"""

import re
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from lesionpipe.core.errors import run
from lesionpipe.core.files import atomic_folder
from lesionpipe.core.formats import write_csv
from lesionpipe.params import load_params
from lesionpipe.phantom.archive import write_parts

PATIENT = re.compile("[0-9]{6}(?=_[0-9]{2}_[0-9]{2}[_/])")  # of 000001_01_01_109.png and 000001_01_01/109.png


def main() -> None:
    params, drawn = load_params(), int(sys.argv[1])
    parts, patients = params.dataset.parts, params.phantom.patients_per_part
    with atomic_folder(Path("data/phantom")) as folder:
        write_parts(parts[:drawn], params.phantom, folder, params.runtime.workers)
        for place, part in enumerate(parts[drawn:], start=drawn):
            (folder / part).mkdir()
            original = folder / parts[place % drawn]
            copy_part(original, folder / part, patients * (int(part) - int(original.name)), place // drawn)


def copy_part(original: Path, copy: Path, shift: int, brighter_hu: int) -> None:
    """Fill the folder `copy` (NN) with the phantom's part in `original`, patients' numbers `shift` higher."""
    for kind in ("Images_png", "true_masks"):
        source, target = original / f"{kind}_{original.name}.zip", copy / f"{kind}_{copy.name}.zip"
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
            for member in old.infolist():
                content = old.read(member)
                info = zipfile.ZipInfo(_renumbered(member.filename, shift))
                new.writestr(info, _brighter(content, brighter_hu) if kind == "Images_png" else content)
    table = pd.read_csv(original / "DL_info.csv", dtype=str, keep_default_na=False)
    names = [_renumbered(name, shift) for name in table["File_name"]]
    write_csv(copy / "DL_info.csv", table.assign(File_name=names, Patient_index=[int(name[:6]) for name in names]))


def _renumbered(name: str, shift: int) -> str:
    return PATIENT.sub(lambda found: f"{int(found[0]) + shift:06d}", name, count=1)


def _brighter(png: bytes, hu: int) -> bytes:
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.imencode(".png", picture + np.uint16(hu))[1].tobytes()


if __name__ == "__main__":
    run(main)
