"""What training, detection and evaluation know of a detector: losses from targets, predictions from images.

A new family is one class with `loss_names`, `losses` and `predict`, and one line in `build.py`; what it needs inside is
its own business. Everything is in px of the stored slice, boxes are xyxy, pixel centres lie at whole numbers from 0.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

# The objects that this process counted in its share of a batch, float32 of any shape -> what it divides its losses by.
# Processes that share a batch return the sum over all of them over their number (at least 1 in all), so that their
# averaged gradients are those of one process with the whole batch. `losses` calls it exactly once.
Share = Callable[[Tensor], Tensor]


def single_process(counts: Tensor) -> Tensor:
    """The `Share` of a process that has the whole batch: its counts, at least 1."""
    return counts.clamp(min=1)


class Targets(NamedTuple):
    """The lesions of B images; on any device, a detector moves them to its own."""

    boxes: list[Tensor]  # per image (n, 4) float32 px; n may be 0 and differ from image to image
    masks: list[Tensor] | None  # per image (n, S, S) bool or uint8, one per lesion, n as in `boxes`; None: no masks
    negatives: list[Tensor] | None = None  # per image (m, 4) px: mined boxes off all lesions; None: none were mined


class Prediction(NamedTuple):
    """What a detector finds in one image, on the detector's device; no gradients."""

    boxes: Tensor  # (k, 4) float32 px, best first
    scores: Tensor  # (k,) float32, descending; only their order has a meaning
    mask: Tensor | None  # (S, S) float32 lesion probability, where the family has one


@dataclasses.dataclass(frozen=True)
class DecodingSettings:
    """How a detector's output becomes boxes: values of the section `detect`, or training's own for its validation."""

    score_threshold: float  # boxes below it are dropped before non-maximum suppression
    topk_candidates: int  # boxes that each pyramid level (or other source) may contribute per image
    nms_iou: float | None  # of two boxes with a greater IoU only the better one stays; None: the family's own
    detections_per_image: int
    calibrate: bool  # multiply scores by 1 + IoU with the predicted mask, where there is one (paper, sec. 2.2)
    mask_threshold: float  # probability above which a pixel belongs to the predicted mask
    proposals: int = 300  # regions of an image that the second of two stages judges, where there are two

    def with_nms_iou(self, usual: float) -> Self:
        """These settings, with a family's `usual` IoU where none is chosen."""
        return self if self.nms_iou is not None else dataclasses.replace(self, nms_iou=usual)


class Detector(nn.Module):
    """Base of all detector families.

    `state_dict()` holds all that training has learned and nothing that the parameters already say (no anchors).
    `compile()` makes torch compile the expensive part of the network at its first use; a family overrides it where
    `losses` and `predict` do more than that part.
    """

    loss_names: tuple[str, ...] = ()  # keys of `losses`, in the order of the history's columns
    stride: int = 1  # of the coarsest map, px: images whose sides differ by a multiple of it are padded alike

    def losses(self, images: Tensor, targets: Targets, share: Share) -> dict[str, Tensor]:
        """The parts of the training loss, unweighted: a differentiable float32 scalar for each of `loss_names`.

        Images are (B, slices, S, S) float32 in [-1, 1], on the detector's device. Runs in the caller's autocast.

        Raises:
            ValueError: the targets don't go with the images, or masks are needed and absent.
        """
        raise NotImplementedError

    def predict(
        self, images: Tensor, settings: DecodingSettings, recist_margin: float | Tensor = 0.0
    ) -> list[Prediction]:
        """One `Prediction` per image (as in `losses`), of at most `settings.detections_per_image` boxes.

        `recist_margin`: px by which a lesion's box reaches beyond its mask on each side, for the calibration: one
        number, or (B, 2) in x and y for each image.
        """
        raise NotImplementedError


class Float32Conv2d(nn.Conv2d):
    """The layer that predicts: in eval mode a convolution in float32, also where all others compute in bfloat16.

    bfloat16 keeps 8 bits: of 14,500 detections only some 370 had a score of their own, while NMS, mAP and FROC order
    detections by their scores. In training autocast decides: a step orders nothing, its losses are computed in float32
    anyway, and this layer in float32 takes a fifth of the step.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class Float32Linear(nn.Linear):
    """As `Float32Conv2d`, for features without a place."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())
