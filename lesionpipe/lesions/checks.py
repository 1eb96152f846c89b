"""DL_info.csv -> `data/lesions.csv`: one row per usable lesion of the parts present; what is dropped is counted.

Coordinates in DL_info.csv start at 1 (as in MATLAB); here they start at 0, the centre of the first pixel. A box is the
extent of the RECIST points plus 5 px (DeepLesion's README) and may reach outside the image. A lesion without RECIST
points still trains the detector; its mask falls back to the box's ellipse later. Lesions marked Possibly_noisy are kept
and counted; `lesions.noisy` filters them where lesions are used.
"""

import numpy as np
import pandas as pd

from lesionpipe.core.boxes import clip
from lesionpipe.core.errors import UserError
from lesionpipe.data.stored.schema import BOX, COLUMNS, RECIST, SPLITS, TYPES, counted_slices

KEY_SLICE_COLUMNS = [
    *("file_name", "split", "slice_interval_mm"),
    *("width_original_px", "height_original_px", "slice_first", "slice_last"),
]
ALL_PARTS = 56
WHOLE_SET = {"lesions": 32_735, "key_slices": 32_120, "patients": 4_427}  # of all 56 parts (paper, sec. 3)
THINNEST_MM = 1e-3  # spacings below count as not positive: no CT has them
WHAT_MAY_MISS = {
    "recist": RECIST,
    "diameters": ["long_diameter_px", "short_diameter_px"],
    "spacing": ["spacing_mm"],
    "slice_interval": ["slice_interval_mm"],
    "image_size": ["width_original_px", "height_original_px"],
    "noisy_flag": ["noisy"],
}

BySplit = dict[str, int]
Counts = dict[str, dict[str, BySplit]]  # kind (dropped, repaired, …) -> reason, also one that never occurs -> by split


def usable_lesions(table: pd.DataFrame, slices: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    """Lesions (of `read_dl_info`) of the `slices` present (file_name, part), and the counts for `metrics/lesions.json`.

    A UserError where none of the lesions lies in the parts present, or a slice is in two splits.
    """
    counts: Counts = {"left_out": {}, "dropped": {}, "repaired": {}, "missing": {}}
    lesions = table.assign(split=np.array(SPLITS)[table["split"] - 1])
    _refuse_two_splits(lesions)
    lesions = _present(lesions, slices, counts)
    # two lesions of a slice differ in their boxes
    repeated = lesions.duplicated(["file_name", "x1", "y1", "x2", "y2"]) & lesions["x1"].notna()
    counts["dropped"]["duplicate"] = by_split(lesions[repeated])
    lesions = lesions[~repeated].rename(columns={name.removesuffix("_original_px"): name for name in (*BOX, *RECIST)})
    lesions[[*BOX, *RECIST]] -= 1
    lesions = _sound_boxes(lesions, counts)
    lesions = _sizes_in_mm(lesions, counts)
    for name, columns in WHAT_MAY_MISS.items():
        counts["missing"][name] = by_split(lesions[lesions[columns].isna().any(axis=1)])
    kinds = lesions["type"].map(dict(enumerate(TYPES, start=1))).fillna("unknown")
    lesions = lesions.assign(type=kinds)[COLUMNS].reset_index(drop=True)
    return lesions, _totals(lesions) | counts


def by_split(table: pd.DataFrame, column: str = "lesion") -> BySplit:
    """How many different values a column has in each split."""
    found = table.groupby("split")[column].nunique()
    return {split: int(found.get(split, 0)) for split in SPLITS}


def key_slices(lesions: pd.DataFrame) -> pd.DataFrame:
    """One row per key slice of a part's lesions, by file name; what one lesion's row lacks comes from another's."""
    return lesions[KEY_SLICE_COLUMNS].groupby("file_name", sort=True).first().reset_index()


def compare_with_published(counts: dict) -> dict:
    """Total numbers beside those of all 56 parts as published: {"lesions": {"found": …, "published": …}, …}."""
    return {name: {"found": sum(counts[name].values()), "published": known} for name, known in WHOLE_SET.items()}


def counts_as_text(counts: dict) -> str:
    """The counts in a few lines for the log: what there is by split, then every reason that occurred."""
    found = {name: counts[name] for name in ("lesions", "key_slices", "patients", "noisy_lesions", "noisy_key_slices")}
    for kind in ("left_out", "dropped", "repaired", "missing"):
        found |= {f"{kind}, {reason}": number for reason, number in counts[kind].items() if any(number.values())}
    lines = [f"{what}: {', '.join(f'{split} {number[split]}' for split in SPLITS)}" for what, number in found.items()]
    for name, numbers in counts.get("whole_set", {}).items():
        same = numbers["found"] == numbers["published"]
        verdict = "as published" if same else f"published are {numbers['published']:,}"
        lines.append(f"all {ALL_PARTS} parts, {name}: {numbers['found']:,} ({verdict})")
    return "\n".join(lines).replace("_", " ")


def _refuse_two_splits(lesions: pd.DataFrame) -> None:
    """A patient in two splits would leak from training into test (the official split is by patient)."""
    where = lesions.drop_duplicates(["patient", "split"])
    for patient, rows in where[where.duplicated("patient", keep=False)].groupby("patient"):
        named = ", ".join(f"row {row} {split}" for row, split in zip(rows["lesion"], rows["split"], strict=True))
        raise UserError(f"Train_Val_Test: patient {patient} is in two splits ({named}); correct DL_info.csv")


def _present(lesions: pd.DataFrame, slices: pd.DataFrame, counts: Counts) -> pd.DataFrame:
    """Lesions whose slice is there; others belong to an absent part, or their slice alone is missing."""
    lesions = lesions.merge(slices[["file_name", "part"]], how="left", on="file_name", validate="many_to_one")
    absent = lesions["part"].isna()
    if absent.all():
        raise UserError("DL_info.csv: no lesion lies in the slices present; do annotations and dataset.parts match?")
    series = set(slices["file_name"].str.rsplit("_", n=1).str[0])
    alone = absent & lesions["file_name"].str.rsplit("_", n=1).str[0].isin(series)
    counts["left_out"]["part_absent"] = by_split(lesions[absent & ~alone])
    counts["dropped"]["slice_missing"] = by_split(lesions[alone])
    return lesions[~absent]


def _sound_boxes(lesions: pd.DataFrame, counts: Counts) -> pd.DataFrame:
    """Boxes with an extent, cut to the centres of the outer pixels; at 0 alone where the image's size isn't known."""
    boxes = lesions[BOX].to_numpy(float)
    sizes = lesions[["width_original_px", "height_original_px"]].fillna(np.inf).to_numpy(float)
    cut = clip(boxes, sizes[:, :1] - 1, sizes[:, 1:] - 1)
    sound = {
        "box_missing": ~np.isnan(boxes).any(axis=1),
        "box_degenerate": _has_extent(boxes),
        "box_outside_image": _has_extent(cut),
    }
    kept = np.full(len(lesions), True)
    for reason, rows in sound.items():
        counts["dropped"][reason] = by_split(lesions[kept & ~rows])
        kept &= rows
    counts["repaired"]["box_clipped"] = by_split(lesions[kept & (cut != boxes).any(axis=1)])
    lesions = lesions[kept].copy()
    lesions[BOX] = cut[kept]
    return lesions


def _has_extent(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] > boxes[:, :2]).all(axis=1)


def _sizes_in_mm(lesions: pd.DataFrame, counts: Counts) -> pd.DataFrame:
    """Spacings and diameters that aren't positive become unknown; diameters from px to mm by the in-plane spacing."""
    spacings = lesions[["spacing_x_mm", "spacing_y_mm"]]
    diameters = lesions[["long_diameter_px", "short_diameter_px"]]
    repaired = {
        "spacing_not_positive": spacings.lt(THINNEST_MM).any(axis=1),
        "slice_interval_not_positive": lesions["slice_interval_mm"].lt(THINNEST_MM),
        "diameter_not_positive": diameters.le(0).any(axis=1),
        "indices_from_file_name": lesions["indices_differ"],
    }
    counts["repaired"] |= {reason: by_split(lesions[rows]) for reason, rows in repaired.items()}
    diameters = diameters.mask(diameters.le(0))
    spacing = spacings.mean(axis=1, skipna=False).mask(repaired["spacing_not_positive"])
    return lesions.assign(
        **diameters,
        spacing_mm=spacing,
        slice_interval_mm=lesions["slice_interval_mm"].mask(repaired["slice_interval_not_positive"]),
        long_diameter_mm=diameters["long_diameter_px"] * spacing,
        short_diameter_mm=diameters["short_diameter_px"] * spacing,
    )


def _totals(lesions: pd.DataFrame) -> dict[str, BySplit]:
    """Numbers by split: all, and those that `lesions.noisy: drop` takes away."""
    dropped_slices = lesions.drop(counted_slices(lesions, lesions, "drop").index)
    return {
        "lesions": by_split(lesions),
        "key_slices": by_split(lesions, "file_name"),
        "patients": by_split(lesions, "patient"),
        "noisy_lesions": by_split(lesions[lesions["noisy"] == 1]),
        "noisy_key_slices": by_split(dropped_slices, "file_name"),
    }
