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


class Tally:
    """Counts by kind (dropped, repaired, …), reason and split."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, dict[str, int]]] = {}

    def add(self, kind: str, reason: str, table: pd.DataFrame) -> None:
        """Count the rows of `table`; a reason that never occurs is listed with zeros."""
        found = table["split"].value_counts()
        self.counts.setdefault(kind, {})[reason] = {split: int(found.get(split, 0)) for split in SPLITS}


def usable_lesions(table: pd.DataFrame, slices: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    """Lesions of the slices present, and the counts for `metrics/lesions.json`.

    Args:
        table: what `read_dl_info` gives.
        slices: file_name and part of the slices that are there.

    Raises:
        UserError: none of the lesions lies in the parts present, or a slice is in two splits.
    """
    tally = Tally()
    lesions = table.assign(split=np.array(SPLITS)[table["split"] - 1])
    _refuse_two_splits(lesions)
    lesions = _present(lesions, slices, tally)
    lesions = _without_duplicates(lesions, tally)
    lesions = _zero_based(lesions)
    lesions = _sound_boxes(lesions, tally)
    lesions = _sizes_in_mm(lesions, tally)
    _count_missing(lesions, tally)
    kinds = lesions["type"].map(dict(enumerate(TYPES, start=1))).fillna("unknown")
    lesions = lesions.assign(type=kinds)[COLUMNS].reset_index(drop=True)
    return lesions, _summary(lesions) | tally.counts


def key_slices(lesions: pd.DataFrame, part: str) -> pd.DataFrame:
    """One row per key slice of a part, sorted by file name; what one lesion's row lacks comes from another's."""
    mine = lesions.loc[lesions["part"] == part, KEY_SLICE_COLUMNS]
    return mine.groupby("file_name", sort=True).first().reset_index()


def compare_with_published(counts: dict) -> dict:
    """Total numbers beside those of all 56 parts as published: {"lesions": {"found": …, "published": …}, …}."""
    return {name: {"found": sum(counts[name].values()), "published": known} for name, known in WHOLE_SET.items()}


def counts_as_text(counts: dict) -> str:
    """The counts in a few lines for the log: what there is by split, then every reason that occurred."""

    def by_split(found: dict[str, int]) -> str:
        return ", ".join(f"{split} {found[split]}" for split in SPLITS)

    totals = ("lesions", "key_slices", "patients", "noisy_lesions", "noisy_key_slices")
    lines = [f"{name.replace('_', ' ')}: {by_split(counts[name])}" for name in totals]
    for kind in ("left_out", "dropped", "repaired", "missing"):
        for reason, found in counts[kind].items():
            if any(found.values()):
                lines.append(f"{kind.replace('_', ' ')}, {reason.replace('_', ' ')}: {by_split(found)}")
    for name, numbers in counts.get("whole_set", {}).items():
        found, published = numbers["found"], numbers["published"]
        verdict = "as published" if found == published else f"published are {published:,}"
        lines.append(f"all 56 parts, {name.replace('_', ' ')}: {found:,} ({verdict})")
    return "\n".join(lines)


def _refuse_two_splits(lesions: pd.DataFrame) -> None:
    """A patient in two splits would leak from training into test (the official split is by patient)."""
    counts = lesions.groupby("patient")["split"].nunique()
    if (counts > 1).any():
        patient = counts.idxmax()
        where = lesions.loc[lesions["patient"] == patient].drop_duplicates("split")
        rows = ", ".join(f"row {row} {split}" for row, split in zip(where["lesion"], where["split"], strict=True))
        raise UserError(f"Train_Val_Test: patient {patient} is in two splits ({rows}); correct DL_info.csv")


def _present(lesions: pd.DataFrame, slices: pd.DataFrame, tally: Tally) -> pd.DataFrame:
    """Lesions whose slice is there; others belong to an absent part, or their slice alone is missing."""
    lesions = lesions.merge(slices[["file_name", "part"]], how="left", on="file_name", validate="many_to_one")
    absent = lesions["part"].isna()
    series = set(slices["file_name"].str.rsplit("_", n=1).str[0])
    alone = absent & lesions["file_name"].str.rsplit("_", n=1).str[0].isin(series)
    tally.add("left_out", "part_absent", lesions[absent & ~alone])
    tally.add("dropped", "slice_missing", lesions[alone])
    if absent.all():
        raise UserError("DL_info.csv: no lesion lies in the slices present; do annotations and dataset.parts match?")
    return lesions[~absent]


def _without_duplicates(lesions: pd.DataFrame, tally: Tally) -> pd.DataFrame:
    """The first of several rows with one slice and one box; two lesions of a slice differ in their boxes."""
    repeated = lesions.duplicated(["file_name", "x1", "y1", "x2", "y2"]) & lesions["x1"].notna()
    tally.add("dropped", "duplicate", lesions[repeated])
    return lesions[~repeated]


def _zero_based(lesions: pd.DataFrame) -> pd.DataFrame:
    """Boxes and RECIST points from 1-based to 0-based coordinates, under the names of `lesions.csv`."""
    old = [name.removesuffix("_original_px") for name in (*BOX, *RECIST)]
    lesions = lesions.rename(columns=dict(zip(old, (*BOX, *RECIST), strict=True)))
    lesions[[*BOX, *RECIST]] -= 1
    return lesions


def _sound_boxes(lesions: pd.DataFrame, tally: Tally) -> pd.DataFrame:
    """Boxes cut to the centres of the image's outer pixels; those without any extent are dropped.

    Where the image's size isn't known, only the sides at 0 cut.
    """
    boxes = lesions[BOX].to_numpy(float)
    sizes = lesions[["width_original_px", "height_original_px"]].fillna(np.inf).to_numpy(float)
    cut = clip(boxes, sizes[:, :1] - 1, sizes[:, 1:] - 1)
    missing = np.isnan(boxes).any(axis=1)
    degenerate = ~missing & ~_has_extent(boxes)
    outside = ~missing & ~degenerate & ~_has_extent(cut)
    for reason, rows in (("box_missing", missing), ("box_degenerate", degenerate), ("box_outside_image", outside)):
        tally.add("dropped", reason, lesions[rows])
    kept = ~(missing | degenerate | outside)
    tally.add("repaired", "box_clipped", lesions[kept & (cut != boxes).any(axis=1)])
    lesions = lesions[kept].copy()
    lesions[BOX] = cut[kept]
    return lesions


def _has_extent(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] > boxes[:, :2]).all(axis=1)


def _sizes_in_mm(lesions: pd.DataFrame, tally: Tally) -> pd.DataFrame:
    """Spacings and diameters that aren't positive become unknown; diameters from px to mm by the in-plane spacing."""
    diameters = lesions[["long_diameter_px", "short_diameter_px"]]
    spacings = lesions[["spacing_x_mm", "spacing_y_mm", "slice_interval_mm"]]
    bad = spacings.lt(THINNEST_MM)
    in_plane, interval = bad[["spacing_x_mm", "spacing_y_mm"]].any(axis=1), bad["slice_interval_mm"]
    tally.add("repaired", "spacing_not_positive", lesions[in_plane])
    tally.add("repaired", "slice_interval_not_positive", lesions[interval])
    tally.add("repaired", "diameter_not_positive", lesions[diameters.le(0).any(axis=1)])
    tally.add("repaired", "indices_from_file_name", lesions[lesions["indices_differ"]])
    spacing = spacings[["spacing_x_mm", "spacing_y_mm"]].mean(axis=1, skipna=False).mask(in_plane)
    lesions = lesions.assign(**diameters.mask(diameters.le(0)))
    return lesions.assign(
        spacing_mm=spacing,
        slice_interval_mm=spacings["slice_interval_mm"].mask(interval),
        long_diameter_mm=lesions["long_diameter_px"] * spacing,
        short_diameter_mm=lesions["short_diameter_px"] * spacing,
    )


def _count_missing(lesions: pd.DataFrame, tally: Tally) -> None:
    """What is unknown of kept lesions."""
    fields = {
        "recist": RECIST,
        "diameters": ["long_diameter_px", "short_diameter_px"],
        "spacing": ["spacing_mm"],
        "slice_interval": ["slice_interval_mm"],
        "image_size": ["width_original_px", "height_original_px"],
        "noisy_flag": ["noisy"],
    }
    for name, columns in fields.items():
        tally.add("missing", name, lesions[lesions[columns].isna().any(axis=1)])


def _summary(lesions: pd.DataFrame) -> dict:
    """Numbers by split: all, and those that `lesions.noisy: drop` takes away."""
    dropped_slices = counted_slices(lesions, lesions, "keep").drop(counted_slices(lesions, lesions, "drop").index)
    columns = {
        "lesions": (lesions, "lesion"),
        "key_slices": (lesions, "file_name"),
        "patients": (lesions, "patient"),
        "noisy_lesions": (lesions[lesions["noisy"] == 1], "lesion"),
        "noisy_key_slices": (dropped_slices, "file_name"),
    }
    counts = {}
    for name, (table, column) in columns.items():
        found = table.groupby("split")[column].nunique()
        counts[name] = {split: int(found.get(split, 0)) for split in SPLITS}
    return counts
