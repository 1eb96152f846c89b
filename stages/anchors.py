"""The anchors in use, data/anchors.json, beside RetinaNet's and the paper's: how well they meet the lesions."""

import pandas as pd

from lesionpipe.anchors.grid import level_numbers, paper_set, retinanet_set
from lesionpipe.anchors.overlap import BestOverlap
from lesionpipe.anchors.plots import draw_shapes
from lesionpipe.anchors.report import Lesions, by_count, compare
from lesionpipe.anchors.search import effort_of, search, space_of
from lesionpipe.core.errors import UserError, run
from lesionpipe.core.formats import write_csv, write_json
from lesionpipe.data.geometry import to_stored
from lesionpipe.data.schema import BOX, read_lesions
from lesionpipe.data.size_groups import by_size
from lesionpipe.params import load_params

LESIONS = "data/lesions.csv"
REPORTED = ("val", "test")


def main() -> None:
    params = load_params()
    settings, side = params.anchors, params.preprocess.image_size
    table = read_lesions(LESIONS)
    lesions = {split: on_stored_slice(table[table["split"] == split], side) for split in {*REPORTED, settings.split}}
    fitted = lesions[settings.split]
    if not len(fitted.boxes):
        raise UserError(
            f"{LESIONS}: no lesion in split {settings.split!r}; change anchors.split or add to dataset.parts"
        )

    space, effort = space_of(settings, level_numbers(params.network.levels), side), effort_of(settings)
    published = {"default": retinanet_set(space.levels, space.sizes), "paper": paper_set(space.levels, space.sizes)}
    strides = published["paper"].strides if settings.placement == "grid" else None
    overlap = BestOverlap(fitted.boxes, strides, fitted.image_sizes)
    found = search(space, overlap, settings.objective, effort)
    sets = {"searched": found.anchors} | published

    write_json("data/anchors.json", sets[settings.use].to_dict() | {"use": settings.use})
    write_json("metrics/anchors.json", compare(sets, {split: lesions[split] for split in REPORTED}))
    write_csv("metrics/anchors_convergence.csv", pd.DataFrame(found.history))
    write_csv(
        "metrics/anchors_count.csv",
        by_count(space, fitted, overlap, settings.objective, effort, params.runtime.workers),
    )
    draw_shapes("metrics/anchors_shapes.png", sets, fitted)
    effort_made = f"{found.evaluations} evaluations over {len(fitted.boxes)} lesions in {found.seconds:.1f} s"
    print(f"in use: {settings.use}, {sets[settings.use].per_cell} anchors per cell; the search took {effort_made}")


def on_stored_slice(table: pd.DataFrame, side: int) -> Lesions:
    """Lesions of data/lesions.csv in px of the stored slice; where an image's size isn't known it is the usual 512."""
    sizes = table[["width_original_px", "height_original_px"]].fillna(512).to_numpy(float).T
    boxes = to_stored(table[BOX], *(side / sizes))
    return Lesions(boxes, (side, side), by_size(table["long_diameter_mm"]))


if __name__ == "__main__":
    run(main)
