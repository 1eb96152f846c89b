"""Stage `evaluate`: from detections to FROC, intervals, groups of lesions and the report (paper, sec. 3.2)."""

import pandas as pd

from lesionpipe.core.errors import UserError, run
from lesionpipe.core.formats import write_csv, write_json
from lesionpipe.data.detections import read_detections
from lesionpipe.data.schema import read_lesions
from lesionpipe.data.slices import SliceStore
from lesionpipe.evaluate.pictures import pictures_of
from lesionpipe.evaluate.report import write_report
from lesionpipe.evaluate.split import evaluate_split
from lesionpipe.params import load_params

DETECTIONS = "data/detections.csv"


def main() -> None:
    params = load_params()
    shards = SliceStore.open("data/slices", params.dataset.parts)
    lesions = read_lesions("data/lesions.csv")
    found = read_detections(DETECTIONS)
    if unexpected := sorted(set(found["split"]) - set(params.detect.splits)):
        raise UserError(f"{DETECTIONS}: split {unexpected[0]!r} is not in detect.splits; rerun `dvc repro detect`")
    results = [evaluate_split(split, shards.index, lesions, found, params.evaluate) for split in params.detect.splits]

    metrics = {result.split: {"noisy": params.lesions.noisy, **result.metrics()} for result in results}
    write_json("metrics/scores.json", metrics)
    write_csv("metrics/froc.csv", pd.concat([result.curve for result in results]))
    for kind in ("size", "type", "interval"):
        write_csv(f"metrics/froc_{kind}.csv", pd.concat([result.groups[kind] for result in results]))
    what = f"{params.dataset.source}, parts {', '.join(params.dataset.parts)}; noisy lesions: {params.lesions.noisy}"
    pictures = pictures_of(results[-1], shards, "data/heatmaps.npz")
    write_report("report", what, results, pictures, params.evaluate)


if __name__ == "__main__":
    run(main)
