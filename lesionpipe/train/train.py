"""The stage `train`: data and anchors in, a trained network out (paper, sec. 2.3, "Training")."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lesionpipe.anchors.grid import AnchorSet, anchors_for, level_numbers
from lesionpipe.core.devices import machine_of, tune_for
from lesionpipe.core.errors import UserError
from lesionpipe.core.files import read_json
from lesionpipe.core.formats import write_csv
from lesionpipe.data.masks import MaskStore
from lesionpipe.data.schema import read_lesions
from lesionpipe.data.slices import SliceStore
from lesionpipe.detectors.retinanet.network import Network, build_network
from lesionpipe.params import Network as NetworkParams
from lesionpipe.params import Preprocess, Runtime, Train
from lesionpipe.train import schedule
from lesionpipe.train.dataset import LesionDataset
from lesionpipe.train.fit import fit
from lesionpipe.train.module import DetectorTraining
from lesionpipe.train.record import History
from lesionpipe.train.state import clear_state, fingerprint, scratch_folder


@dataclass(frozen=True)
class Inputs:
    """Files that the stage reads, relative to the working folder."""

    parts: tuple[str, ...]
    slices: Path = Path("data/slices")
    masks: Path = Path("data/masks")
    lesions: Path = Path("data/lesions.csv")
    anchors: Path = Path("data/anchors.json")

    def files(self) -> list[Path]:
        """All of them, for the fingerprint."""
        of_parts = [(self.slices / f"{p}.npy", self.slices / f"{p}.csv", self.masks / f"{p}.npz") for p in self.parts]
        return [self.lesions, self.anchors, *(file for files in of_parts for file in files)]


@dataclass(frozen=True)
class Trained:
    """The result; `writes` is true in the one process that keeps it."""

    network: Network
    anchors: AnchorSet
    history: History
    state_folder: Path
    writes: bool

    def summary(self) -> dict[str, float]:
        """metrics/train.json: the best epoch (from 1), its validation mAP, and the epochs trained."""
        best = schedule.best_epoch(self.history.scores)
        return {
            "best_epoch": best + 1,
            "val_map": round(self.history.scores[best], 6),
            "epochs": len(self.history.rows),
        }

    def save_history(self, path: Path) -> None:
        """metrics/train.csv, see `EpochRecord`."""
        write_csv(path, self.history.table())

    def forget_state(self) -> None:
        """Remove the resume state; to be called once the results are written."""
        clear_state(self.state_folder)


def train_detector(
    inputs: Inputs,
    preprocess: Preprocess,
    network: NetworkParams,
    train: Train,
    runtime: Runtime,
    history_path: Path | None = None,
) -> Trained:
    """Train a network from `train.seed`, or go on where an interrupted run with the same inputs ended.

    Raises:
        UserError: an input is missing or doesn't fit the parameters, or the loss is not finite.
    """
    folder = scratch_folder(fingerprint(_settings(inputs, preprocess, network, train), _input_files(inputs, network)))
    anchor_set = AnchorSet.from_dict(read_json(inputs.anchors))
    _check_levels(anchor_set, network, inputs.anchors)
    training, validation = (open_dataset(inputs, preprocess, network, train, split) for split in ("train", "val"))
    machine = machine_of(runtime)
    tune_for(machine.device)
    torch.manual_seed(train.seed)
    built = build_network(network, preprocess.slices, anchor_set.per_cell)
    anchors = torch.from_numpy(anchors_for(anchor_set, preprocess.image_size, preprocess.image_size))
    module = DetectorTraining(built, anchors, train, preprocess.hu)
    history, writes = fit(module, training, validation, machine, folder, history_path)
    built.load_state_dict(history.best)
    return Trained(built, anchor_set, history, folder, writes)


def open_dataset(
    inputs: Inputs, preprocess: Preprocess, network: NetworkParams, train: Train, split: str
) -> LesionDataset:
    """The slices of a split with their labels; only `train` carries masks, and only for a mask branch.

    Raises:
        UserError: a file is missing, or the stored slices are not those of the parameters.
    """
    shards = SliceStore.open(inputs.slices, inputs.parts).select([split])
    stored = shards.slices(0).shape if len(shards) else None
    wanted = (preprocess.slices, preprocess.image_size, preprocess.image_size)
    if stored not in (None, wanted):
        raise UserError(f"{inputs.slices}: slices of shape {stored}, params.yaml asks for {wanted}; run `dvc repro`")
    masks = MaskStore.open(inputs.masks, inputs.parts)
    with_mask = network.mask_branch and split == "train"
    return LesionDataset(shards, read_lesions(inputs.lesions), masks, train, preprocess.hu[0], with_mask)


def _settings(inputs: Inputs, preprocess: Preprocess, network: NetworkParams, train: Train) -> dict[str, Any]:
    return {
        "parts": inputs.parts,
        "preprocess": preprocess.model_dump(),
        "network": network.model_dump(),
        "train": train.model_dump(),
    }


def _input_files(inputs: Inputs, network: NetworkParams) -> list[Path]:
    own = network.weights not in (None, "imagenet")
    return [*inputs.files(), *([Path(network.weights)] if own else [])]


def _check_levels(anchor_set: AnchorSet, network: NetworkParams, path: Path) -> None:
    strides = tuple(2**level for level in level_numbers(network.levels))
    if anchor_set.strides != strides:
        raise UserError(
            f"{path}: anchors of strides {list(anchor_set.strides)}, but network.levels = {network.levels} has "
            f"{list(strides)}; run `dvc repro anchors`"
        )
