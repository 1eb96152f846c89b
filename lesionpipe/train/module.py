"""One step of training and of validation, as a Lightning module (paper, sec. 2.3, "Training").

Processes that share a batch divide their losses by the positives of the whole batch, so their averaged gradients are
those of one process with all of it.
"""

import math
from typing import NamedTuple

import lightning as L
import numpy as np
import torch
import torch.distributed
from torch import Tensor

from lesionpipe.core.errors import UserError
from lesionpipe.data.samples import Batch, prepare
from lesionpipe.detectors.retinanet.decode import decode
from lesionpipe.detectors.retinanet.losses import build_targets, count_targets, detection_losses
from lesionpipe.detectors.retinanet.network import Network
from lesionpipe.data.average_precision import average_precision
from lesionpipe.params import Detect, Train
from lesionpipe.train import schedule

CHECK_EVERY = 25  # steps between looks at the loss on a GPU, which each make it wait
# Of its own and not params.detect, so that a change of the detection never retrains; cheap, and plain scores.
VALIDATION = Detect(
    splits=("val",),
    batch_size=1,
    precision="32",
    score_threshold=0.01,
    topk_candidates=300,
    nms_iou=0.5,
    detections_per_image=100,
    calibrate=False,
    mask_threshold=0.5,
    recist_margin_px=0.0,
    compile=False,
)


class Found(NamedTuple):
    """Detections and lesions of one image, for the validation mAP."""

    boxes: np.ndarray  # (k, 4)
    scores: np.ndarray  # (k,)
    truth: np.ndarray  # (n, 4)


class DetectorTraining(L.LightningModule):
    """Trains a network; `scores` holds the validation mAP of each finished epoch.

    Args:
        network: to be trained.
        anchors: (A, 4) of the stored slice, px.
        train: params.train.
        hu: clipping range, HU.
    """

    def __init__(self, network: Network, anchors: Tensor, train: Train, hu: tuple[int, int]):
        super().__init__()
        self.network = network
        self.register_buffer("anchors", anchors, persistent=False)
        self.settings, self.hu = train, hu
        self.scores: list[float] = []
        self._found: list[Found] = []

    def forward(self, hu: Tensor):
        """Raw maps of HU (B, slices, S, S)."""
        return self.network(prepare(hu, self.hu, self.settings.channels_last))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`total` and its parts, scalars."""
        boxes = batch.boxes.split(batch.counts)
        targets = build_targets(self.anchors, boxes, batch.masks, batch.hu.shape[-1])
        parts = detection_losses(self(batch.hu), targets, shared_counts(count_targets(targets)))
        total = parts["classification"] + parts["box"]
        if "mask" in parts:
            total = total + self.settings.mask_loss_weight * parts["mask"]
        return {"total": total, **parts}

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        losses = self.losses(batch)
        if self.device.type == "cpu" or step % CHECK_EVERY == 0:
            self.require_finite(losses, step)
        return {"loss": losses["total"], **{name: value.detach() for name, value in losses.items()}}

    def require_finite(self, losses: dict[str, Tensor], step: int) -> None:
        """Stop all processes when the loss of one is not finite.

        Raises:
            UserError: naming the losses and what to change.
        """
        total = self.trainer.strategy.reduce(losses["total"].detach().clone(), reduce_op="mean")
        if not bool(torch.isfinite(total)):
            own = {name: float(value.detach()) for name, value in losses.items()}
            told = ", ".join(f"{name} {value:.4g}" for name, value in own.items())
            if self.trainer.world_size > 1:
                told = f"here: {told}"
            if all(map(math.isfinite, own.values())):
                told += "; not finite in another process"
            raise UserError(
                f"training: the loss is not finite in epoch {len(self.scores) + 1}, step {step + 1} ({told}); lower "
                f"train.learning_rate (now {self.settings.learning_rate:g}) or train.gradient_clip_norm (now "
                f"{self.settings.gradient_clip_norm}), or set train.precision to 32"
            )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.settings.gradient_clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip_norm)

    def on_train_batch_start(self, batch: Batch, step: int) -> None:
        passed = len(self.scores) + (step + 0.5) / self.trainer.num_training_batches
        rate = schedule.rate(self.settings, self.scores, passed)
        for group in self.optimizers().param_groups:
            group["lr"] = rate

    def on_validation_epoch_start(self) -> None:
        self._found = []

    def validation_step(self, batch: Batch, step: int) -> None:
        side = batch.hu.shape[-1]
        found = decode(self(batch.hu), self.anchors, VALIDATION, side, VALIDATION.recist_margin_px)
        truth = batch.boxes.split(batch.counts)
        self._found += [
            Found(d.boxes.float().cpu().numpy(), d.scores.float().cpu().numpy(), t.cpu().numpy())
            for d, t in zip(found, truth, strict=True)
        ]

    def validation_map(self) -> float:
        """mAP at IoU 0.5 of the validation that has just ended, over all processes."""
        found = [self._found]
        if torch.distributed.is_initialized():
            found = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(found, self._found)
        boxes, scores, truth = zip(*(image for share in found for image in share), strict=True)
        return average_precision(boxes, scores, truth)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=self.settings.learning_rate, fused=True)


def shared_counts(counts: Tensor) -> Tensor:
    """What each process divides its losses by: the counts of all processes, at least 1, over their number."""
    if not torch.distributed.is_initialized():
        return counts.clamp(min=1)
    torch.distributed.all_reduce(counts)
    return counts.clamp(min=1) / torch.distributed.get_world_size()
