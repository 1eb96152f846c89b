"""`lesionpipe mine`: a trained model over the training slices; its confident boxes off all lesions, to train with."""

from pathlib import Path
from typing import Annotated

import typer

from lesionpipe.core.bfloat16 import choose_arithmetic
from lesionpipe.core.devices import choose_hardware
from lesionpipe.core.formats import write_csv
from lesionpipe.data.hard_negatives import NEGATIVES_FOLDER, select_hard_negatives
from lesionpipe.data.stored.schema import LESIONS_CSV, read_lesions
from lesionpipe.data.stored.slices import SLICES_FOLDER, SliceStore
from lesionpipe.detect.stored_slices import build_settings, detect_slices
from lesionpipe.detectors.checkpoint import MODEL, load_model
from lesionpipe.params import load_params


def mine(
    file: Annotated[Path, typer.Argument(help="Where to write.")] = Path("data/mined.csv"),
    model: Annotated[Path, typer.Option(help="The trained model.")] = MODEL,
    score: Annotated[float, typer.Option(help="Least score of a box.", min=0)] = 0.5,
    iou: Annotated[float, typer.Option(help="Largest IoU with any lesion.", min=0, max=1)] = 0.1,
    per_slice: Annotated[int, typer.Option(help="Boxes of a slice at most.", min=1)] = 5,
) -> None:
    """Write hard negatives: boxes that a model takes for lesions in the training slices, and that are none.

    Copy the file into data/inputs/negatives, name it in train.hard_negatives and train again. DVC counts all that lies
    in that folder as an input of the training, so it is not written there unasked.
    """
    params = load_params()
    runtime = params.runtime
    hardware = choose_hardware(runtime.device, runtime.devices, runtime.nodes, runtime.workers)
    lesions = read_lesions(LESIONS_CSV)
    store = (
        SliceStore.open(SLICES_FOLDER, params.dataset.parts).select(["train"]).counted(lesions, params.lesions.noisy)
    )
    trained = load_model(model, hardware.device)
    arithmetic = choose_arithmetic(params.detect.precision, hardware.device, training=False)
    found = detect_slices(trained, store, build_settings(params.detect, arithmetic.precision), hardware)
    mined = select_hard_negatives(found.table, lesions, score, iou, per_slice)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_csv(file, mined)
    slices = mined["file_name"].nunique()
    print(f"{file}: {len(mined)} boxes in {slices} of {found.images} training slices")
    print(f"to train with them: cp {file} {NEGATIVES_FOLDER}; train.hard_negatives: {NEGATIVES_FOLDER / file.name}")
