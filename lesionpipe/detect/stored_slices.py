"""The stage `detect`: a trained detector over stored slices, boxes and heatmaps out (paper, sec. 2.2 and 3.2)."""

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import Dataset

from lesionpipe.core.devices import Hardware, compile_network, tune_for
from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path
from lesionpipe.core.progress import progress
from lesionpipe.data.detections import DETECTION_COLUMNS
from lesionpipe.data.samples import Sample, loader, prepare
from lesionpipe.data.stored.slices import SliceStore, to_original
from lesionpipe.detectors.checkpoint import Model
from lesionpipe.detectors.interface import DecodingSettings, Detector, Float32Conv2d, Float32Linear
from lesionpipe.params import Detect

REDUCTION = 4  # stored px per heatmap px
CAST_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class DetectionSettings:
    """Values of the section `detect`, with the precision that is used."""

    decoding: DecodingSettings
    recist_margin_px: float  # original px
    batch_size: int
    precision: str  # bf16 or 32
    compiled: bool


def build_settings(detect: Detect, precision: str) -> DetectionSettings:
    """The section `detect`, in which `precision` may be `auto`, with the one that is used."""
    decoding = DecodingSettings(**detect.model_dump(include=set(DecodingSettings.__annotations__)))
    return DetectionSettings(decoding, detect.recist_margin_px, detect.batch_size, precision, detect.compile)


class SliceDetections(NamedTuple):
    """What a detector finds in n slices."""

    table: pd.DataFrame  # DETECTION_COLUMNS, sorted by split, file name and descending score
    heatmap_names: np.ndarray  # (n,) file names of the heatmaps
    heatmaps: np.ndarray  # (n, S/4, S/4) uint8 lesion probability, 255 for 1; n = 0 where the family has no mask
    images: int
    ms_per_image: float  # network and decoding


@dataclass
class SliceDataset(Dataset):
    """The slices of a store, without lesions."""

    store: SliceStore

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> Sample:
        name = self.store.index.at[index, "file_name"]
        return Sample(name, self.store.slices(index), np.zeros((0, 4), np.float32), None)


def detect_slices(model: Model, store: SliceStore, settings: DetectionSettings, hardware: Hardware) -> SliceDetections:
    """Run a model over slices, at least one; a UserError where it was trained for others or torch can't compile."""
    stored, wanted = store.slices(0).shape, (model.slices, model.image_size, model.image_size)
    if stored != wanted:
        raise UserError(f"data/slices: slices of shape {stored}, the model was trained for {wanted}; run `dvc repro`")
    tables, heatmaps, spent = _run(model, store, settings, hardware)
    table = pd.concat(tables, ignore_index=True).sort_values(
        ["split", "file_name", "score"], ascending=[True, True, False], kind="stable", ignore_index=True
    )
    small = model.image_size // REDUCTION
    stacked = np.stack(heatmaps) if heatmaps else np.zeros((0, small, small), np.uint8)
    names = store.index["file_name"].to_numpy(str)[: len(stacked)]
    return SliceDetections(table, names, stacked, len(store), ms_per_image(spent))


def _run(
    model: Model, store: SliceStore, settings: DetectionSettings, hardware: Hardware
) -> tuple[list[pd.DataFrame], list[np.ndarray], list[tuple[int, float]]]:
    """Table and heatmap of each slice, and images and seconds of each batch."""
    tune_for(hardware.device)
    detector = for_inference(model.detector, settings.precision, hardware.device, settings.compiled)
    margins = settings.recist_margin_px * torch.tensor(store.index[["scale_x", "scale_y"]].to_numpy(np.float32))
    tables, heatmaps, spent = [], [], []
    for batch in progress(loader(SliceDataset(store), settings.batch_size, None, hardware), "detect", unit="batch"):
        began, start = time.perf_counter(), len(tables)
        margin = margins[start : start + len(batch.keys)].to(hardware.device)
        with torch.inference_mode():
            images = prepare(batch.hu.to(hardware.device, non_blocking=True), model.hu, channels_last=True)
            predictions = detector.predict(images, settings.decoding, margin)
        found = [(prediction.boxes.cpu().numpy(), prediction.scores.cpu().numpy()) for prediction in predictions]
        if all(prediction.mask is not None for prediction in predictions):
            heatmaps += list(heatmap(torch.stack([prediction.mask for prediction in predictions])).cpu().numpy())
        spent.append((len(predictions), time.perf_counter() - began))
        tables += [_table(store.index.iloc[start + i], *pair) for i, pair in enumerate(found)]
    return tables, heatmaps, spent


def for_inference(detector: Detector, precision: str, device: str = "cpu", compiled: bool = False) -> Detector:
    """A copy of the detector that gives the same answers in less time: in eval mode, channels last, on `device`.

    Batch norms, constant after training, are folded into the convolutions before them. With the precision `bf16` all
    weights but the predicting layers' are cast once, and no autocast is needed; it would cast them in every call, which
    on a CPU takes a fifth of the time of a slice. `compiled` lets torch compile the network at its first call; where it
    can't, that is a UserError.
    """
    ready = fold_batch_norms(copy.deepcopy(detector).eval())
    ready = ready.to(device=device, memory_format=torch.channels_last)
    if precision == "bf16":
        for layer in ready.modules():  # layers alone: of the buffers, anchors in bfloat16 would be off by pixels
            if isinstance(layer, CAST_LAYERS) and not isinstance(layer, Float32Conv2d | Float32Linear):
                layer.to(torch.bfloat16)
    if compiled:
        compile_network(ready, device, "detect.compile")
    return ready.requires_grad_(False)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold each batch norm behind a convolution into it, in place; in eval mode answers change by rounding only."""
    convolution_name = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and convolution_name is not None:
            convolution = getattr(module, convolution_name)
            setattr(module, convolution_name, fuse_conv_bn_eval(convolution, child))
            setattr(module, name, nn.Identity())
        convolution_name = name if isinstance(child, nn.Conv2d) else None
        fold_batch_norms(child)
    return module


def heatmap(probability: Tensor) -> Tensor:
    """Lesion probability (B, H, W) averaged over 4 x 4 px: uint8 (B, H/4, W/4), 255 for 1."""
    return (F.avg_pool2d(probability[:, None], REDUCTION)[:, 0] * 255).round().to(torch.uint8)


def ms_per_image(spent: list[tuple[int, float]]) -> float:
    """Milliseconds per image from the images and seconds of each batch.

    Only batches of the first one's size count, and not the first: each new size warms up, or is compiled, again.
    """
    counted = [batch for batch in spent[1:] if batch[0] == spent[0][0]] or spent
    return 1000 * sum(seconds for _, seconds in counted) / sum(images for images, _ in counted)


def write_heatmaps(path: str | Path, found: SliceDetections) -> None:
    """Arrays file_name and heatmap, compressed; atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, file_name=found.heatmap_names, heatmap=found.heatmaps)


def _table(slice_row: pd.Series, boxes: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """The detections of one slice in original px."""
    original = to_original(boxes, slice_row["scale_x"], slice_row["scale_y"])
    names = [[slice_row["split"]] * len(boxes), [slice_row["file_name"]] * len(boxes)]
    return pd.DataFrame(dict(zip(DETECTION_COLUMNS, [*names, *original.T, scores], strict=True)))
