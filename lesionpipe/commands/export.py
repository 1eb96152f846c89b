"""`lesionpipe export`: the data set and the detections for other programs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import write_text
from lesionpipe.data.detections import read_detections
from lesionpipe.data.masks import MaskStore
from lesionpipe.data.schema import read_lesions
from lesionpipe.data.slices import SliceStore
from lesionpipe.evaluate.coco_export import dataset, results
from lesionpipe.evaluate.truth import detections_of_split, truth_of_split
from lesionpipe.params import load_params

DETECTIONS = Path("data/detections.csv")
MASKS = Path("data/masks")


def coco(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if need be.")] = Path("data/coco"),
    masks: Annotated[bool, typer.Option(help="Write the lesions' masks as RLE.")] = True,
) -> None:
    """Write COCO files: train.json, val.json, test.json and, once detected, detections_val.json and so on."""
    params = load_params()
    index = SliceStore.open("data/slices", params.dataset.parts).index
    lesions = read_lesions("data/lesions.csv")
    store = MaskStore.open(MASKS, params.dataset.parts) if masks else None
    truths = {split: truth_of_split(index, lesions, split)[0] for split in ("train", "val", "test")}
    for split, truth in truths.items():
        _write(folder / f"{split}.json", dataset(index, lesions, split, store))
        print(f"{folder}/{split}.json: {len(truth.images)} slices, {len(truth.lesion_images)} lesions")
    if not DETECTIONS.is_file():
        print(f"{DETECTIONS}: not there yet, so no detections are written; `dvc repro detect` makes it")
        return
    found = read_detections(DETECTIONS)
    for split in sorted(set(found["split"])):
        if split not in truths:
            raise UserError(f"{DETECTIONS}: split {split!r} is none of train, val, test")
        detections_of_split(found, truths[split], split, DETECTIONS)  # refuses unknown slices
        rows = results(index, found, split)
        _write(folder / f"detections_{split}.json", rows)
        print(f"{folder}/detections_{split}.json: {len(rows)} detections")


def _write(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, allow_nan=False))
