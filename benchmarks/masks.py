"""How good and how fast the masks are, by method, on a phantom of real-sized lesions whose true masks are known.

    python benchmarks/masks.py [--patients 40] [--sizes 512 192]

Draws one part of the phantom, stores it at each size, makes every lesion's mask by every method on one core, and prints
Dice and boundary distance (mean symmetric surface distance, mm) by method, size group and type, and seconds per lesion.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from lesionpipe.data.geometry import to_stored
from lesionpipe.data.schema import read_lesions
from lesionpipe.data.size_groups import by_size
from lesionpipe.data.slices import SliceStore
from lesionpipe.masks.batch import SliceTask, slice_hu, slice_tasks
from lesionpipe.masks.methods import LesionMask, make_mask
from lesionpipe.masks.summary import measure
from lesionpipe.params import Masks, load_params
from lesionpipe.data.true_masks import read_true_masks

ROOT = Path(__file__).parents[1]
PART = "01"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 192], help="sides of the stored slice, px")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for size in options.sizes:
            prepare(options.patients, size, first=size == options.sizes[0])
            report(size, pd.concat(list(all_methods(load_params().masks, size))))


def prepare(patients: int, size: int, first: bool) -> None:
    """Run the data stages in the working folder: the phantom once, its slices at `size`."""
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load((ROOT / "presets/phantom.yaml").read_text(encoding="utf-8"))
    params["dataset"]["parts"] = [PART]
    params["phantom"] |= {"patients_per_part": patients, "image_size": 512}
    params["preprocess"]["image_size"] = size
    yaml.dump(params, Path("params.yaml"))
    listing = Path(params["dataset"]["listing"])
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_bytes((ROOT / listing).read_bytes())
    drawn = (("download", PART), ("annotations",), ("lesions",)) if first else ()
    for stage, *part in (*drawn, ("preprocess", PART)):
        subprocess.run([sys.executable, ROOT / f"stages/{stage}.py", *part], check=True, stdout=subprocess.DEVNULL)


def variants(chosen: Masks) -> dict[str, Masks]:
    """The three methods, and GrabCut from the paper's own trimap, by the name of their row."""
    methods = {
        method: chosen.model_copy(update={"method": method}) for method in ("grabcut", "box-dilation", "ellipse")
    }
    return methods | {
        "grabcut, background_ellipse_factor: null": chosen.model_copy(
            update={"method": "grabcut", "background_ellipse_factor": None}
        )
    }


def all_methods(chosen: Masks, size: int):
    """One table per variant: lesion, variant, seconds, method, dice, boundary_mm and the lesion's size and type."""
    lesions, true = (
        read_lesions().set_index("lesion", drop=False),
        read_true_masks(f"data/true_masks/{PART}.zip"),
    )
    names = pd.read_csv("data/raw/DL_info.csv", usecols=["File_name"])["File_name"]
    keys = dict(enumerate(zip(names, names.groupby(names).cumcount() + 1, strict=True), start=1))
    tasks = slice_tasks(
        f"data/slices/{PART}.npy", SliceStore.open(parts=[PART]).index, lesions.reset_index(drop=True), to_stored
    )
    for name, settings in variants(chosen).items():
        rows = []
        for lesion, made, seconds in timed(tasks, settings):
            mask = np.zeros((size, size), bool)
            mask[made.y0 : made.y0 + made.mask.shape[0], made.x0 : made.x0 + made.mask.shape[1]] = made.mask
            quality = measure(mask, true[keys[lesion]], lesions.at[lesion, "spacing_mm"])
            rows.append((lesion, name, seconds, made.method, *quality))
        columns = ["lesion", "variant", "seconds", "method", "dice", "boundary_mm"]
        table = pd.DataFrame(rows, columns=columns).set_index("lesion")
        yield table.join(lesions[["type", "long_diameter_mm"]])


def timed(tasks: list[SliceTask], settings: Masks) -> list[tuple[int, LesionMask, float]]:
    """Lesion, mask and seconds on one core, the reading of the slice aside."""
    results = []
    for task in tasks:
        hu = slice_hu(task)
        for lesion, label in task.lesions:
            start = time.perf_counter()
            made = make_mask(hu, label, settings)
            results.append((lesion, made, time.perf_counter() - start))
    return results


def report(size: int, table: pd.DataFrame) -> None:
    """Markdown tables of one stored size."""
    sizes = by_size(table["long_diameter_mm"], (10, 30))
    table = table.assign(size=np.select(list(sizes.values()), list(sizes), "unknown"))
    table["stand_in"] = table["method"] != table["variant"].str.split(",").str[0]
    overall = table.groupby("variant", sort=False).agg(
        lesions=("dice", "size"),
        dice=("dice", "mean"),
        dice_p10=("dice", lambda values: values.quantile(0.1)),
        boundary_mm=("boundary_mm", "mean"),
        stand_ins=("stand_in", "sum"),
        s_per_lesion=("seconds", "mean"),
    )
    print(f"\n## stored at {size} px\n\n{overall.round(3).reset_index().to_csv(sep='|', index=False)}")
    for key in ("size", "type"):
        for value in ("dice", "boundary_mm"):
            pivot = table.pivot_table(value, key, "variant", sort=False).sort_index().round(3)
            pivot.insert(0, "lesions", table.groupby(key).size() // table["variant"].nunique())
            print(f"{value} by {key}\n{pivot.reset_index().to_csv(sep='|', index=False)}")


if __name__ == "__main__":
    main()
