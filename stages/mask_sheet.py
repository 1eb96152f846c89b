"""How good the masks are: counts by method and reason, agreement with the phantom's true masks, and a contact sheet."""

import pandas as pd

from lesionpipe.deeplesion.annotations import read_lesions
from lesionpipe.deeplesion.phantom import read_true_masks
from lesionpipe.deeplesion.shards import Shards
from lesionpipe.deeplesion.stack import to_stored
from lesionpipe.errors import run
from lesionpipe.files import atomic_path, write_json
from lesionpipe.params import Params, load_params
from lesionpipe.weak_labels.batch import read_table, slice_hu, slice_tasks
from lesionpipe.weak_labels.sheet import Example, choose, contact_sheet, save_sheet
from lesionpipe.weak_labels.store import MaskStore
from lesionpipe.weak_labels.summary import agreement, counts, measure

SHOWN = 24


def main() -> None:
    params = load_params()
    parts = params.dataset.parts
    table = pd.concat([read_table(f"data/masks/{part}.csv") for part in parts], ignore_index=True)
    table = table.merge(read_lesions(), on="lesion")
    summary = counts(table)
    if params.dataset.source == "phantom":
        table = table.merge(true_agreement(params, table), on="lesion")
        summary["true_masks"] = agreement(table, params.evaluate.size_edges_mm)
    write_json("metrics/masks.json", summary)
    shown = choose(table["method"].to_numpy(), table["area_px"].to_numpy(), params.masks.method, SHOWN)
    found = {example[0]: example[1] for part in parts for example in examples(params, part, table.iloc[shown])}
    order = [found[lesion] for lesion in table["lesion"].iloc[shown]]
    title = f"masks.method: {params.masks.method} - {len(table)} lesions, {dict(summary['by_method'])}"
    with atomic_path("metrics/masks.png") as temporary:
        save_sheet(temporary, contact_sheet(order, params.masks, title))


def true_masks(params: Params, part: str) -> dict:
    """Lesion number -> true mask of the archive's slice; empty for all but the phantom."""
    if params.dataset.source != "phantom":
        return {}
    masks = read_true_masks(f"data/raw/{part}/true_masks_{part}.zip")
    names = pd.read_csv("data/raw/DL_info.csv", usecols=["File_name"])["File_name"]
    keys = zip(names, names.groupby(names).cumcount() + 1, strict=True)
    return {lesion: masks[key] for lesion, key in enumerate(keys, start=1) if key in masks}


def true_agreement(params: Params, table: pd.DataFrame) -> pd.DataFrame:
    """Dice and boundary distance of every lesion's mask: lesion, dice, boundary_mm."""
    store, spacing = MaskStore.open(parts=params.dataset.parts), table.set_index("lesion")["spacing_mm"]
    rows = []
    for part in params.dataset.parts:
        true = true_masks(params, part)
        for row in range(store.rows(part)):
            for lesion, mask in zip(*store.of_slice(part, row), strict=True):
                rows.append((int(lesion), *measure(mask, true[int(lesion)], spacing[lesion])))
    return pd.DataFrame(rows, columns=["lesion", "dice", "boundary_mm"])


def examples(params: Params, part: str, shown: pd.DataFrame) -> list[tuple[int, Example]]:
    """The lesions of one part that the sheet shows."""
    here = shown[shown["part"] == part].set_index("lesion")
    true = true_masks(params, part) if len(here) else {}
    index = Shards.open(parts=[part]).index
    result = []
    for task in slice_tasks(f"data/slices/{part}.npy", index, here.reset_index(), to_stored):
        for lesion, label in task.lesions:
            method, known = here.at[lesion, "method"], true.get(lesion)
            result.append((lesion, Example(slice_hu(task), label, caption(lesion, here), method, known)))
    return result


def caption(lesion: int, shown: pd.DataFrame) -> str:
    """Number, type, size, method and why, and Dice where it's known."""
    row = shown.loc[lesion]
    reason = f" ({row['reason']})" if row["reason"] else ""
    overlap = f", Dice {row['dice']:.2f}" if "dice" in row else ""
    return f"{lesion} {row['type']}, {row['long_diameter_mm']:.0f} mm: {row['method']}{reason}{overlap}"


if __name__ == "__main__":
    run(main)
