"""The mAP on the validation slices, by which training keeps its best epoch and stops (paper, sec. 2.3)."""

import contextlib

import torch
from torch.utils.data import DataLoader

from lesionpipe.data.average_precision import average_precision
from lesionpipe.data.samples import prepare
from lesionpipe.detectors.interface import DecodingSettings, Detector
from lesionpipe.train.processes import copy_buffers_of_first, gather_lists

# Not the section `detect`, so that another way to detect never retrains; cheap, and with plain scores.
VALIDATION = DecodingSettings(
    score_threshold=0.01,
    topk_candidates=300,
    nms_iou=None,
    detections_per_image=100,
    calibrate=False,
    mask_threshold=0.5,
    proposals=100,
)


@torch.no_grad()
def validation_map(
    detector: Detector, batches: DataLoader, hu: tuple[int, int], channels_last: bool, bf16: bool
) -> float:
    """Average precision at IoU 0.5 over the validation slices of all processes; leaves the detector in eval mode.

    `batches`: this process's share, on the detector's device; `hu`: clipping range.
    """
    detector.eval()
    copy_buffers_of_first(detector)
    images = []  # boxes (k, 4) and scores (k,) found, and lesions (n, 4), px of the stored slice
    for batch in batches:
        with autocast(batch.hu.device, bf16):
            predictions = detector.predict(prepare(batch.hu, hu, channels_last), VALIDATION)
        for prediction, lesions in zip(predictions, batch.boxes.split(batch.counts), strict=True):
            images.append([part.float().cpu().numpy() for part in (*prediction[:2], lesions)])
    return average_precision(*zip(*gather_lists(images), strict=True))


def autocast(device: torch.device, bf16: bool) -> contextlib.AbstractContextManager:
    """Mixed precision in bf16, or none. Not Fabric's own, which would round the lesions' boxes to bf16 as well.

    Weights are cast anew at each use: the gradients of a head's weights, used on every level, then add up in float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False)
