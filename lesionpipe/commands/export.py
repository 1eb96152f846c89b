"""`lesionpipe export`: the data set and the detections for other programs."""

import json
from pathlib import Path
from typing import Annotated

import cv2
import pandas as pd
import typer

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import write_text
from lesionpipe.core.progress import progress
from lesionpipe.data.detections import DETECTIONS, read_detections
from lesionpipe.data.masks import MASKS_FOLDER, MaskStore
from lesionpipe.data.stored.schema import LESIONS_CSV, SPLITS, counted_lesions, counted_slices, read_lesions
from lesionpipe.data.stored.slices import SLICES_FOLDER, SliceStore
from lesionpipe.evaluate.coco import archive_name, coco_dataset, coco_results, picture
from lesionpipe.evaluate.truth import counted_tables, detections_of_split, truth_of_split
from lesionpipe.params import load_params

PNG_COMPRESSION = [cv2.IMWRITE_PNG_COMPRESSION, 3]


def coco(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if need be.")] = Path("data/coco"),
    masks: Annotated[bool, typer.Option(help="Write the lesions' masks as RLE.")] = True,
    images: Annotated[
        bool,
        typer.Option(help="Write FOLDER/images: 8-bit PNG of three neighbouring slices, preprocess.hu from 0 to 255."),
    ] = True,
    slices_folder: Annotated[
        Path | None,
        typer.Option(help="Write no images; file names lead to the archives' slices, extracted in this folder."),
    ] = None,
) -> None:
    """Write COCO files: train.json, val.json, test.json, their images and, once detected, detections_val.json etc.

    Lesions and slices that lesions.noisy drops are left out.
    """
    params = load_params()
    store, lesions = SliceStore.open(SLICES_FOLDER, params.dataset.parts), read_lesions(LESIONS_CSV)
    index = counted_slices(store.index, lesions, params.lesions.noisy)
    counted = counted_lesions(lesions, params.lesions.noisy)
    mask_store = MaskStore.open(MASKS_FOLDER, params.dataset.parts) if masks else None
    if slices_folder:
        _require_slices(slices_folder, index)
    for split in SPLITS:
        truth = truth_of_split(index, counted, split)[0]
        dataset = coco_dataset(index, counted, split, mask_store, slices_folder is not None)
        write_text(folder / f"{split}.json", json.dumps(dataset, allow_nan=False))
        print(f"{folder}/{split}.json: {len(truth.images)} slices, {len(truth.lesion_images)} lesions")
    print(f"noisy lesions: {params.lesions.noisy} (lesions.noisy)")
    if slices_folder:
        print(f"images: {slices_folder}, 16-bit grey, HU + 32768")
    elif images:
        _write_pictures(folder / "images", store, index, params.preprocess.hu)
    else:
        print("images: none written; file names are DeepLesion's official ones")
    _write_results(folder, store.index, lesions, params.lesions.noisy)


def _require_slices(folder: Path, index: pd.DataFrame) -> None:
    for name in index["file_name"]:
        if not (folder / archive_name(name)).is_file():
            raise UserError(
                f"--slices-folder {folder}: no file {archive_name(name)} in it; give the extracted folder of "
                f"the series' folders (000001_01_01 …), or leave the option out to have images written"
            )


def _write_pictures(folder: Path, store: SliceStore, index: pd.DataFrame, hu_range: tuple[int, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row in progress(index.itertuples(), "images", total=len(index), unit="slices"):
        size = int(row.width_original_px), int(row.height_original_px)
        shown = picture(store.slices(row.Index), hu_range, size)
        coded = cv2.imencode(".png", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), PNG_COMPRESSION)[1]
        temporary = folder / f".{row.file_name}.partial"  # not synced one by one: an interrupted export is run again
        temporary.write_bytes(coded.tobytes())
        temporary.replace(folder / row.file_name)
    low, high = hu_range
    print(f"{folder}: {len(index)} PNG, channels: slice before, lesion's slice, slice after; {low} to {high} HU")


def _write_results(folder: Path, index: pd.DataFrame, lesions: pd.DataFrame, noisy: str) -> None:
    if not DETECTIONS.is_file():
        print(f"{DETECTIONS}: not there yet, so no detections are written; `dvc repro detect` makes it")
        return
    kept, counted, found = counted_tables(index, lesions, read_detections(DETECTIONS), noisy)
    for split in sorted(set(found["split"])):
        truth = truth_of_split(kept, counted, split)[0]
        detections_of_split(found, truth, split, DETECTIONS)  # refuses unknown slices and splits
        rows = coco_results(kept, found, split)
        write_text(folder / f"detections_{split}.json", json.dumps(rows, allow_nan=False))
        print(f"{folder}/detections_{split}.json: {len(rows)} detections")
