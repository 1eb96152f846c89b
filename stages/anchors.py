"""Stage `anchors`: scales and ratios by differential evolution (paper, sec. 2.1), beside RetinaNet's and the paper's.

Writes data/anchors.json, the anchors in use, and how well all three sets cover the lesions: metrics/anchors*.
"""

import functools
from collections.abc import Sequence

import pandas as pd

from lesionpipe.anchors.grid import level_numbers, paper_set, retinanet_set
from lesionpipe.anchors.overlap import BestOverlap, SplitBoxes, compare_anchor_sets
from lesionpipe.anchors.plots import draw_shapes
from lesionpipe.anchors.search import build_search_space, search_anchors, search_by_count
from lesionpipe.core.errors import UserError, run
from lesionpipe.core.formats import write_csv, write_json
from lesionpipe.data.size_groups import by_size
from lesionpipe.data.stored.schema import BOX, LESIONS_CSV, counted_lesions, read_lesions
from lesionpipe.data.stored.slices import read_slice_index, to_stored, with_image_sizes
from lesionpipe.params import Params, load_params

REPORTED_SPLITS = ("val", "test")


def main() -> None:
    params = load_params()
    chosen = params.anchors
    splits = boxes_of_splits(params, {*REPORTED_SPLITS, chosen.split})
    fitted = splits[chosen.split]
    if not len(fitted.boxes):
        problem = f"no lesion in split {chosen.split!r}; change anchors.split or add to dataset.parts"
        raise UserError(f"{LESIONS_CSV}: {problem}")

    space = build_search_space(chosen, level_numbers(params.network.levels), params.preprocess.image_size)
    published = {"default": retinanet_set(space.levels, space.sizes), "paper": paper_set(space.levels, space.sizes)}
    strides = published["paper"].strides if chosen.placement == "grid" else None
    overlap = BestOverlap(fitted.boxes, strides, fitted.image_sizes)
    differential = chosen.model_dump(include={"population", "generations", "mutation", "seed"})
    search = functools.partial(search_anchors, overlap=overlap, objective=chosen.objective, **differential)
    found = search(space)
    sets = {"searched": found.anchors} | published

    write_json("data/anchors.json", sets[chosen.use].to_dict() | {"use": chosen.use})
    write_json("metrics/anchors.json", compare_anchor_sets(sets, {split: splits[split] for split in REPORTED_SPLITS}))
    write_csv("metrics/anchors_convergence.csv", pd.DataFrame(found.history))
    write_csv("metrics/anchors_count.csv", search_by_count(space, fitted, search, params.runtime.workers))
    draw_shapes("metrics/anchors_shapes.png", sets, fitted)
    effort = f"{found.evaluations} evaluations over {len(fitted.boxes)} lesions in {found.seconds:.1f} s"
    print(f"in use: {chosen.use}, {sets[chosen.use].per_cell} anchors per cell; the search took {effort}")


def boxes_of_splits(params: Params, splits: set[str]) -> dict[str, SplitBoxes]:
    """The lesions that count, split by split, in px of the stored slice."""
    lesions = with_image_sizes(read_lesions(), read_slice_index(params.dataset.parts))
    lesions = counted_lesions(lesions, params.lesions.noisy)
    side, edges = params.preprocess.image_size, params.evaluate.size_edges_mm
    return {split: on_stored_slice(lesions[lesions["split"] == split], side, edges) for split in splits}


def on_stored_slice(lesions: pd.DataFrame, side: int, size_edges_mm: Sequence[float]) -> SplitBoxes:
    """Lesions, whose slices' true sizes are known, in px of the stored slice of `side` px."""
    unknown = lesions["width_original_px"].isna() | lesions["height_original_px"].isna()
    if unknown.any():
        part, name = lesions.loc[unknown, ["part", "file_name"]].iloc[0]
        raise UserError(f"data/slices/{part}.csv: no slice {name}; run `dvc repro preprocess@{part}`")
    widths, heights = lesions["width_original_px"].to_numpy(float), lesions["height_original_px"].to_numpy(float)
    boxes = to_stored(lesions[BOX], side / widths, side / heights)
    return SplitBoxes(boxes, (side, side), by_size(lesions["long_diameter_mm"], size_edges_mm))


if __name__ == "__main__":
    run(main)
