"""From the parameters and the files of the data stages to all that the training loop needs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from lesionpipe.anchors.grid import read_anchors
from lesionpipe.core.bfloat16 import Arithmetic, choose_arithmetic
from lesionpipe.core.devices import choose_hardware
from lesionpipe.core.errors import UserError
from lesionpipe.data.masks import MASKS_FOLDER, MaskStore
from lesionpipe.data.stored.schema import counted_lesions, read_lesions
from lesionpipe.data.stored.slice_writer import SLICES_FOLDER
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.detectors.build import build_detector
from lesionpipe.detectors.weights import weights_file
from lesionpipe.params import Network, Preprocess, Runtime, Train
from lesionpipe.train.augment import AugmentationRanges
from lesionpipe.train.dataset import LesionDataset
from lesionpipe.train.loop import Training, TrainingSettings
from lesionpipe.train.schedule import Schedule
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
    files, anchors = input_files(parts, network.weights), read_anchors(ANCHORS_FILE)
    torch.manual_seed(train.seed)
    detector = build_detector(network, preprocess.slices, preprocess.image_size, anchors)
    slices = build_dataset("train", parts, noisy, preprocess, train, with_masks="mask" in detector.loss_names)
    validation_slices = build_dataset("val", parts, noisy, preprocess, train, with_masks=False)
    _check_sizes(slices, validation_slices, train.batch_size, hardware.processes)
    sections = {"preprocess": preprocess, "network": network, "train": train}
    plain = {name: section.model_dump(mode="json") for name, section in sections.items()}
    plain["train"]["precision"] = arithmetic.precision  # what is used, not `auto`
    folder = state_folder(fingerprint_of({"parts": list(parts), "noisy": noisy, **plain}, files))
    settings = _settings(train, preprocess, arithmetic)
    return Training(detector, slices, validation_slices, settings, hardware, folder, anchors, plain)


def build_dataset(
    split: str, parts: Sequence[str], noisy: Noisy, preprocess: Preprocess, train: Train, with_masks: bool
) -> LesionDataset:
    """The slices of a split with the lesions that count.

    Raises:
        UserError: a file is missing or damaged, or the stored slices are not those of the parameters.
    """
    lesions = read_lesions(LESIONS_FILE)
    slices = SliceStore.open(SLICES_FOLDER, parts).select([split]).counted(lesions, noisy)
    if len(slices) == 0:
        raise UserError(f"{SLICES_FOLDER}: no slice of the {split} split among dataset.parts; add parts that have some")
    stored, wanted = slices.slices(0).shape, (preprocess.slices, preprocess.image_size, preprocess.image_size)
    if stored != wanted:
        raise UserError(
            f"{SLICES_FOLDER}: slices of shape {stored}, params.yaml asks for {wanted}; run `dvc repro preprocess`"
        )
    lesions, masks = counted_lesions(lesions, noisy), MaskStore.open(MASKS_FOLDER, parts)
    ranges = AugmentationRanges(**train.model_dump(include=set(AugmentationRanges._fields)))
    return LesionDataset(slices, lesions, masks, ranges, train.seed, preprocess.hu[0], with_masks)


def input_files(parts: Sequence[str], weights: str | None) -> list[Path]:
    """All files that shape a training; `weights` is the parameter `network.weights`.

    Raises:
        UserError: no such weights, or not where they should lie.
    """
    slices = [Path(SLICES_FOLDER, f"{part}{suffix}") for part in parts for suffix in (".npy", ".csv")]
    masks = [Path(MASKS_FOLDER, f"{part}.npz") for part in parts]
    own_weights = weights_file(weights)
    return [LESIONS_FILE, ANCHORS_FILE, *slices, *masks, *([own_weights] if own_weights else [])]


def _settings(train: Train, preprocess: Preprocess, arithmetic: Arithmetic) -> TrainingSettings:
    return TrainingSettings(
        seed=train.seed,
        batch_size=train.batch_size,
        schedule=Schedule(kind=train.schedule, **train.model_dump(include=set(Schedule.__annotations__))),
        gradient_clip_norm=train.gradient_clip_norm,
        loss_weights={"mask": train.mask_loss_weight},
        arithmetic=arithmetic,
        compile=train.compile,
        channels_last=train.channels_last,
        hu=preprocess.hu,
    )


def _check_sizes(slices: LesionDataset, validation_slices: LesionDataset, batch: int, processes: int) -> None:
    for name, dataset in (("train", slices), ("val", validation_slices)):
        if len(dataset) < processes:
            raise UserError(f"{SLICES_FOLDER}: {len(dataset)} slices of the {name} split for {processes} processes")
    if batch % processes:
        raise UserError(
            f"params.yaml: train.batch_size = {batch} can't be shared out evenly over {processes} processes"
        )
