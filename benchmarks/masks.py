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
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from lesionpipe.data.size_groups import by_size
from lesionpipe.data.stored.schema import read_lesions
from lesionpipe.data.stored.slices import read_slice_index
from lesionpipe.mask_quality.quality import AGREEMENT_COLUMNS, measured_agreement, true_masks_of
from lesionpipe.masks.methods import LesionMask, SliceTask, lesion_slice, make_mask, slice_tasks
from lesionpipe.params import Masks, load_params

ROOT = Path(__file__).parents[1]
PART = "01"
METHODS = ("grabcut", "box-dilation", "ellipse", "quarter-ellipses")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 192], help="sides of the stored slice, px")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for size in options.sizes:
            prepare(options.patients, size, first=size == options.sizes[0])
            params = load_params()
            table = pd.concat(list(all_methods(params.masks, size)))
            report(size, table, params.evaluate.size_edges_mm)


def prepare(patients: int, size: int, first: bool) -> None:
    """Run the data stages in the working folder: the phantom once, its slices at `size`."""
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["dataset"] |= {"source": "phantom", "parts": [PART], "annotations": None}
    params["phantom"] |= {"patients_per_part": patients, "extra_test_patients": 0, "image_size": 512}
    params["preprocess"]["image_size"] = size
    yaml.dump(params, Path("params.yaml"))
    drawn = (("phantom", PART), ("download", PART), ("lesions",)) if first else ()
    for stage, *part in (*drawn, ("preprocess", PART)):
        command = [sys.executable, "-m", f"stages.{stage}", *part]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def variants(chosen: Masks) -> dict[str, Masks]:
    """The methods, and GrabCut from the paper's own trimap, by the name of their row."""
    methods = {method: chosen.model_copy(update={"method": method}) for method in METHODS}
    papers = chosen.model_copy(update={"method": "grabcut", "background_ellipse_factor": None})
    return methods | {"grabcut, background_ellipse_factor: null": papers}


def all_methods(chosen: Masks, size: int) -> Iterator[pd.DataFrame]:
    """One table per variant: lesion, variant, seconds, method, dice, boundary_mm and the lesion's size and type."""
    lesions = read_lesions()
    true, spacing = true_masks_of(PART, lesions), lesions.set_index("lesion")["spacing_mm"]
    tasks = slice_tasks(f"data/slices/{PART}.npy", read_slice_index([PART]), lesions)
    for name, settings in variants(chosen).items():
        rows = []
        for lesion, made, seconds in timed(tasks, settings):
            quality = measured_agreement(made.on_slice(size), true[lesion], spacing[lesion])
            rows.append((lesion, name, seconds, made.method, *quality))
        columns = ["lesion", "variant", "seconds", "method", *AGREEMENT_COLUMNS]
        yield pd.DataFrame(rows, columns=columns).merge(lesions[["lesion", "type", "long_diameter_mm"]], on="lesion")


def timed(tasks: list[SliceTask], settings: Masks) -> list[tuple[int, LesionMask, float]]:
    """Lesion, mask and seconds on one core, the reading of the slice aside."""
    results = []
    for task in tasks:
        hu = lesion_slice(task)
        for lesion, label in task.lesions:
            start = time.perf_counter()
            made = make_mask(hu, label, settings)
            results.append((lesion, made, time.perf_counter() - start))
    return results


def report(size: int, table: pd.DataFrame, size_edges_mm: Sequence[float]) -> None:
    """Markdown tables of one stored size."""
    sizes = by_size(table["long_diameter_mm"], size_edges_mm)
    table = table.assign(size=np.select(list(sizes.values()), list(sizes), "unknown"))
    table["fallback"] = table["method"] != table["variant"].str.split(",").str[0]
    overall = table.groupby("variant", sort=False).agg(
        lesions=("dice", "size"),
        dice=("dice", "mean"),
        dice_p10=("dice", lambda values: values.quantile(0.1)),
        boundary_mm=("boundary_mm", "mean"),
        fallbacks=("fallback", "sum"),
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
