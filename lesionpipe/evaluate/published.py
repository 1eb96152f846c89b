"""Published sensitivities on DeepLesion's official test split, to stand beside one's own: `published.csv`, best first.

The rows of the paper and of those that it quotes are its Table 1 and Fig. 2; MVP-Net (Li et al. 2019) and MULAN (Yan et
al. 2019) came after it. All hold at IoU 0.5, for all lesions (`group` all) or for the paper's three size groups.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

PUBLISHED_IOU = 0.5
PUBLISHED_SLICES = 4831  # key slices of the test split; 4,817 without the noisy ones
SLICES_TOLERANCE = 0.01  # a few may lack their image
PLOTTED_METHODS = ("MULAN", "MVP-Net", "the paper (+ attention gate)", "3DCE", "the paper, original RetinaNet")
SAME_DATA, OTHER_DATA = "same", "other"
THIS_RUN = "this run"


def read_published() -> pd.DataFrame:
    """method, slices (of the input; NaN: unknown), group, fps_per_image, sensitivity (share), reference."""
    return pd.read_csv(Path(__file__).with_name("published.csv"))


def is_published_set(source: str, split: str, slices: int) -> bool:
    """Whether so many slices of a split, from `dataset.source`, are what the published numbers were evaluated on."""
    whole = abs(slices - PUBLISHED_SLICES) <= SLICES_TOLERANCE * PUBLISHED_SLICES
    return source != "phantom" and split == "test" and whole


def published_table(iou: float, groups: Sequence[str], same_data: bool) -> pd.DataFrame:
    """What may be drawn beside a run: method, group, fps_per_image, sensitivity, data (same or other than the run's).

    Groups are matched by name: only the paper's own size groups have published numbers. Empty at another IoU.
    """
    table = read_published()
    fits = table["method"].isin(PLOTTED_METHODS) & table["group"].isin(["all", *groups])
    chosen = table[fits & (iou == PUBLISHED_IOU)][["method", "group", "fps_per_image", "sensitivity"]]
    return chosen.assign(data=SAME_DATA if same_data else OTHER_DATA).reset_index(drop=True)


def with_published(table: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """A plotted table with the rows of `published_table` below its own, so that `dvc plots` draws them side by side.

    Two columns more: method ("this run", or who published) and data (empty, or `published_table`'s).
    """
    own = table.assign(method=THIS_RUN, data="")
    return pd.concat([own, published.assign(split="test").reindex(columns=own.columns)], ignore_index=True)
