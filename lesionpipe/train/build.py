"""From the parameters and the files of the data stages to all that the training loop needs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from lesionpipe.anchors.grid import read_anchors
from lesionpipe.core.bfloat16 import choose_arithmetic
from lesionpipe.core.devices import choose_hardware
from lesionpipe.core.errors import UserError
from lesionpipe.data.hard_negatives import negatives_file, read_hard_negatives
from lesionpipe.data.masks import MASKS_FOLDER, MaskStore
from lesionpipe.data.stored.schema import counted_lesions, read_lesions
from lesionpipe.data.stored.slice_writer import SLICES_FOLDER
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.detectors.backbones import weights_file
from lesionpipe.detectors.build import build_detector, fixed_anchors
from lesionpipe.params import Network, Preprocess, Runtime, Train
from lesionpipe.train.dataset import AugmentationRanges, LesionDataset, crop_side
from lesionpipe.train.loop import Training, TrainingSettings
from lesionpipe.train.state import fingerprint_of, state_folder

LESIONS_FILE, ANCHORS_FILE = Path("data/lesions.csv"), Path("data/anchors.json")
Noisy = Literal["keep", "drop"]


def build_training(
    parts: Sequence[str], noisy: Noisy, preprocess: Preprocess, network: Network, train: Train, runtime: Runtime
) -> Training:
    """Open the data and build the detector, its first weights drawn from `train.seed`.

    Raises:
        UserError: an input is missing or damaged, or doesn't go with the parameters.
    """
    hardware = choose_hardware(runtime.device, runtime.devices, runtime.nodes, runtime.workers)
    arithmetic = choose_arithmetic(train.precision, hardware.device, training=True)
    mined = negatives_file(train.hard_negatives)
    files = [*input_files(parts, network.weights), *([mined] if mined else [])]
    anchors = fixed_anchors(network, preprocess.image_size) or read_anchors(ANCHORS_FILE)
    torch.manual_seed(train.seed)
    detector = build_detector(network, preprocess, anchors)
    if train.batch_size % hardware.processes:
        raise UserError(
            f"params.yaml: train.batch_size = {train.batch_size} can't be shared out evenly over {hardware.processes} "
            "processes"
        )
    has_masks = "mask" in detector.loss_names
    crop_px = crop_side(train.crop, preprocess.image_size, detector.stride)
    slices, validation_slices = _datasets(parts, noisy, preprocess, train, crop_px, hardware.processes, has_masks)
    sections = {"preprocess": preprocess, "network": network, "train": train}
    plain = {name: section.model_dump(mode="json") for name, section in sections.items()}
    plain["train"]["precision"] = arithmetic.precision  # what is used, not `auto`
    folder = state_folder(fingerprint_of({"parts": list(parts), "noisy": noisy, **plain}, files))
    names = {field.name for field in dataclasses.fields(TrainingSettings)}
    settings = TrainingSettings(hu=preprocess.hu, arithmetic=arithmetic, **train.model_dump(include=names))
    return Training(detector, slices, validation_slices, settings, hardware, folder, anchors, plain)


def _datasets(
    parts: Sequence[str],
    noisy: Noisy,
    preprocess: Preprocess,
    train: Train,
    crop_px: int | None,
    processes: int,
    with_masks: bool,
) -> tuple[LesionDataset, LesionDataset]:
    """The slices of the splits train and val with the lesions that count, at least one slice for each process."""
    lesions, stored = read_lesions(LESIONS_FILE), SliceStore.open(SLICES_FOLDER, parts)
    counted, masks = counted_lesions(lesions, noisy), MaskStore.open(MASKS_FOLDER, parts)
    ranges = AugmentationRanges(**train.model_dump(include=set(AugmentationRanges._fields)), crop_px=crop_px)
    wanted, datasets = (preprocess.slices, preprocess.image_size, preprocess.image_size), []
    for split in ("train", "val"):
        slices = stored.select([split]).counted(lesions, noisy)
        if len(slices) < processes:
            raise UserError(
                f"{SLICES_FOLDER}: {len(slices)} slices of the {split} split among dataset.parts, for {processes} "
                "processes; add parts that have more"
            )
        if (shape := slices.slices(0).shape) != wanted:
            raise UserError(
                f"{SLICES_FOLDER}: slices of shape {shape}, params.yaml asks for {wanted}; run `dvc repro preprocess`"
            )
        training = split == "train"
        mined = negatives_file(train.hard_negatives) if training else None
        negatives = None if mined is None else read_hard_negatives(mined, slices.index)
        augmentation = ranges, train.seed, preprocess.hu[0]
        datasets.append(LesionDataset(slices, counted, masks, *augmentation, with_masks and training, negatives))
    return tuple(datasets)


def input_files(parts: Sequence[str], weights: str | None) -> list[Path]:
    """All files that shape a training; `weights` is the parameter `network.weights`, refused as in `weights_file`."""
    slices = [Path(SLICES_FOLDER, f"{part}{suffix}") for part in parts for suffix in (".npy", ".csv")]
    masks = [Path(MASKS_FOLDER, f"{part}.npz") for part in parts]
    own_weights = weights_file(weights)
    return [LESIONS_FILE, ANCHORS_FILE, *slices, *masks, *([own_weights] if own_weights else [])]
