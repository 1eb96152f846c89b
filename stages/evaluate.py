"""Stage `evaluate`: from detections to FROC, intervals, groups of lesions and the report (paper, sec. 3.2)."""

import pandas as pd

from lesionpipe.core.errors import UserError, run
from lesionpipe.core.formats import write_csv, write_json
from lesionpipe.data.detections import DETECTIONS, HEATMAPS, read_detections, read_heatmaps
from lesionpipe.data.stored.schema import read_lesions
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.evaluate.published import is_published_set, published_table, with_published
from lesionpipe.evaluate.report.page import write_report
from lesionpipe.evaluate.split import SplitResult, evaluate_split, main_split
from lesionpipe.evaluate.truth import counted_tables
from lesionpipe.params import Params, load_params


def main() -> None:
    params = load_params()
    slices = SliceStore.open("data/slices", params.dataset.parts)
    heatmaps = read_heatmaps(HEATMAPS)
    results = evaluate_all(params, slices)
    shown, noisy = main_split(results), params.lesions.noisy
    same_data = is_published_set(params.dataset.source, shown.split, len(shown.truth.images))
    published = published_table(params.evaluate.iou, list(shown.size_groups), same_data)

    write_json("metrics/scores.json", {result.split: {"noisy": noisy, **result.metrics()} for result in results})
    of_all = published["group"] == "all"
    write_csv("metrics/froc.csv", with_published(pd.concat([result.curve for result in results]), published[of_all]))
    for kind in ("size", "type", "interval"):
        table = pd.concat([result.groups[kind] for result in results])
        write_csv(f"metrics/froc_{kind}.csv", with_published(table, published[published["group"].isin(table["group"])]))
    about = f"{params.dataset.source}, parts {', '.join(params.dataset.parts)}; noisy lesions: {noisy}"
    write_report("report", about, results, slices, heatmaps, published, params.evaluate)
    for result in results:
        print(summary(result, noisy))


def evaluate_all(params: Params, slices: SliceStore) -> list[SplitResult]:
    """Score each split of `detect.splits` on the slices and lesions that count."""
    found = read_detections(DETECTIONS)
    if unexpected := sorted(set(found["split"]) - set(params.detect.splits)):
        raise UserError(f"{DETECTIONS}: split {unexpected[0]!r} is not in detect.splits; rerun `dvc repro detect`")
    tables = counted_tables(slices.index, read_lesions("data/lesions.csv"), found, params.lesions.noisy)
    return [evaluate_split(split, *tables, params.evaluate) for split in params.detect.splits]


def summary(result: SplitResult, noisy: str) -> str:
    """One line for the terminal: the set and its headline."""
    scores, sizes = result.scores, result.scores.sizes
    kept = f"{result.noisy_lesions} of them noisy" if noisy == "keep" else "noisy ones dropped"
    return (
        f"{result.split}: {sizes['lesions']} lesions ({kept}) on {sizes['images']} slices; IoU {scores.iou:g}; "
        f"sensitivity at {scores.rates[-1]:g} FPs per image {scores.sensitivity[-1].value:.3f}, "
        f"mean of 0.5 to 4 FPs {scores.mean.value:.3f}"
    )


if __name__ == "__main__":
    run(main)
