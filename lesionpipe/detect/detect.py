"""The stage `detect`: a trained detector over the slices of some splits (paper, sec. 2.2 and 3.2)."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from lesionpipe.anchors.grid import anchors_for
from lesionpipe.core.devices import Hardware, compile_network, tune_for
from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path
from lesionpipe.core.progress import progress
from lesionpipe.data.geometry import to_original
from lesionpipe.data.samples import Sample, loader, prepare
from lesionpipe.data.slices import SliceStore
from lesionpipe.detectors.checkpoint import Model
from lesionpipe.detectors.inference import for_inference
from lesionpipe.detectors.retinanet.decode import Detections, decode
from lesionpipe.params import Detect

REDUCTION = 4  # stored px per heatmap px
COLUMNS = ("split", "file_name", "x1_original_px", "y1_original_px", "x2_original_px", "y2_original_px", "score")


class Found(NamedTuple):
    """What the detector says about n slices."""

    detections: pd.DataFrame  # COLUMNS, sorted by split, file name and descending score
    names: np.ndarray  # (n,) file names of the heatmaps
    heatmaps: np.ndarray  # (n, S/4, S/4) uint8 mask probability, 255 for 1; n = 0 without a mask branch
    images: int
    ms_per_image: float  # network and decoding, see Detector.ms_per_image

    def summary(self) -> dict[str, float]:
        """metrics/detect.json."""
        return {"images": self.images, "detections": len(self.detections), "ms_per_image": round(self.ms_per_image, 3)}


class SliceDataset(Dataset):
    """The slices of shards as stored, without lesions."""

    def __init__(self, shards: SliceStore):
        self.shards, self._keys = shards, shards.index["file_name"].tolist()

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self._keys[index], self.shards.slices(index), np.zeros((0, 4), np.float32), None)


class Detector:
    """A model ready for batches of stored slices of one side; `spent` are the seconds of each batch.

    Args:
        model: loaded on `device`.
        settings: params.detect.
        side: of the stored slices, px.
        device: cpu or cuda.
    """

    def __init__(self, model: Model, settings: Detect, side: int, device: str):
        self.model, self.settings, self.side, self.device = model, settings, side, device
        self.network = for_inference(model.network, settings.precision, device)
        if settings.compile:
            compile_network(self.network, device, "detect.compile")
        self.dtype = next(self.network.parameters()).dtype
        self.anchors = torch.from_numpy(anchors_for(model.anchors, side, side)).to(device)
        self.spent: list[tuple[int, float]] = []

    @torch.inference_mode()
    def __call__(self, hu: Tensor, scale: Tensor) -> tuple[list[Detections], Tensor | None]:
        """Detections of HU (B, slices, S, S) in stored px, and mask probability (B, S/4, S/4) as uint8, if any.

        `scale` (B, 2) are the stored px per original px in x and y, for the mask's margin.
        """
        start = time.perf_counter()
        images = prepare(hu.to(self.device, non_blocking=True), self.model.preprocess["hu"], channels_last=True)
        raw = self.network(images.to(self.dtype))
        margin = (self.settings.recist_margin_px * scale).to(self.device)
        found = decode(raw, self.anchors, self.settings, self.side, margin)
        found = [Detections(d.boxes.float().cpu(), d.scores.float().cpu()) for d in found]
        self.spent.append((len(hu), time.perf_counter() - start))
        return found, None if raw.mask_logits is None else heatmap(raw.mask_logits).cpu()

    def ms_per_image(self) -> float:
        """Mean over the batches of the first one's size but the first: each new size warms up, or is compiled, anew."""
        counted = [batch for batch in self.spent[1:] if batch[0] == self.spent[0][0]] or self.spent
        return 1000 * sum(seconds for _, seconds in counted) / sum(images for images, _ in counted)


def heatmap(mask_logits: Tensor) -> Tensor:
    """Mask probability (B, H, W) averaged over 4 x 4 px: uint8 (B, H/4, W/4), 255 for 1."""
    probability = F.avg_pool2d(mask_logits.float().sigmoid()[:, None], REDUCTION)[:, 0]
    return (probability * 255).round().to(torch.uint8)


def detect(model: Model, shards: SliceStore, settings: Detect, hardware: Hardware) -> Found:
    """Run a model over all slices of `shards`.

    Raises:
        UserError: no slices, or slices that the model wasn't trained for.
    """
    side = _checked_side(model, shards, settings)
    tune_for(hardware.device)
    detector = Detector(model, settings, side, hardware.device)
    scales = torch.tensor(shards.index[["scale_x", "scale_y"]].to_numpy(), dtype=torch.float32)
    tables, maps, start = [], [], 0
    batches = loader(SliceDataset(shards), settings.batch_size, None, hardware)
    for batch in progress(batches, "detect", unit="batch"):
        found, mask = detector(batch.hu, scales[start : start + len(batch.keys)])
        tables += [_table(shards.index.iloc[start + i], one) for i, one in enumerate(found)]
        maps += [] if mask is None else [mask.numpy()]
        start += len(batch.keys)
    table = pd.concat(tables, ignore_index=True).sort_values(
        ["split", "file_name", "score"], ascending=[True, True, False], kind="stable", ignore_index=True
    )
    small = side // REDUCTION
    heatmaps = np.concatenate(maps) if maps else np.zeros((0, small, small), np.uint8)
    names = shards.index["file_name"].to_numpy(str)[: len(heatmaps)]
    return Found(table, names, heatmaps, len(shards), detector.ms_per_image())


def write_heatmaps(path: str | Path, found: Found) -> None:
    """Arrays file_name and heatmap, compressed; atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, file_name=found.names, heatmap=found.heatmaps)


def _table(slice_row: pd.Series, found: Detections) -> pd.DataFrame:
    """The detections of one slice in original px."""
    boxes = to_original(found.boxes.numpy(), slice_row["scale_x"], slice_row["scale_y"])
    columns = [[slice_row["split"]] * len(boxes), [slice_row["file_name"]] * len(boxes), *boxes.T, found.scores.numpy()]
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))


def _checked_side(model: Model, shards: SliceStore, settings: Detect) -> int:
    if len(shards) == 0:
        raise UserError(f"data/slices: no slice of {list(settings.splits)}; see detect.splits and dataset.parts")
    stored = shards.slices(0).shape
    wanted = (model.preprocess["slices"], model.preprocess["image_size"], model.preprocess["image_size"])
    if stored != wanted:
        raise UserError(f"data/slices: slices of shape {stored}, the model was trained for {wanted}; run `dvc repro`")
    return stored[-1]
