"""The training loop (paper, sec. 2.3, "Training"): read it from `train_detector` down.

Each epoch: all training slices once, in a new order and newly augmented; the mAP on the validation slices; the weights
kept if they are the best so far; the state saved. What happens depends on the seed and the epoch alone, so an
interrupted run ends with the very bytes of an undisturbed one, and on a CPU so do two runs. Of two processes each takes
half of every batch and divides its losses by the whole batch's counts.
"""

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Subset

from lesionpipe.anchors.grid import AnchorSet
from lesionpipe.core.bfloat16 import Arithmetic
from lesionpipe.core.devices import Hardware, compile_network, repeatable, tune_for
from lesionpipe.core.errors import UserError
from lesionpipe.core.progress import progress
from lesionpipe.data.samples import Batch, loader, prepare
from lesionpipe.detectors.interface import Detector, Targets
from lesionpipe.train.dataset import EpochSampler, LesionDataset
from lesionpipe.train.history import History
from lesionpipe.train.optimizers import build_optimizers
from lesionpipe.train.processes import leave_report_to_first, share_counts
from lesionpipe.train.schedule import Schedule, learning_rate, should_stop
from lesionpipe.train.state import load_state, save_state
from lesionpipe.train.validation import autocast, validation_map

CHECK_EVERY = 25  # steps between looks at the losses on a GPU, which each make it wait


@dataclass(frozen=True)
class TrainingSettings(Schedule):
    """Values of the section `train` under the names that they have there, the clipping range, the precision used."""

    seed: int
    batch_size: int
    optimizer: Literal["adam", "muon"]
    gradient_clip_norm: float | None
    mask_loss_weight: float
    compile: bool
    channels_last: bool
    hu: tuple[int, int]
    arithmetic: Arithmetic


@dataclass(frozen=True)
class Training:
    """All that a training needs; `build.py` makes it."""

    detector: Detector
    slices: LesionDataset  # at least one for each process
    validation_slices: LesionDataset  # likewise
    settings: TrainingSettings  # its `batch_size` is a multiple of the number of processes
    hardware: Hardware
    state_folder: Path  # where the state of an interrupted run lies
    anchors: AnchorSet  # stored with the model, as are the parameters
    parameters: dict[str, Any]  # sections preprocess, network and train, as plain values, with the precision used


def train_detector(fabric: Fabric, training: Training) -> History:
    """Train the detector in place until the schedule ends, and give it back its best weights.

    Raises:
        UserError: a damaged state, a loss that is not finite, or no compiler for `train.compile`.
    """
    detector = training.detector
    settings = fabric.broadcast(training.settings)  # the precision is that of the first process everywhere
    bf16 = settings.arithmetic.bf16
    tune_for(training.hardware.device)
    model, optimizers = _set_up(fabric, training)
    history = _resume(fabric, training, optimizers)
    batches, validation_batches = _loaders(fabric, training)
    with repeatable(training.hardware.device):
        while not should_stop(settings, history.scores):
            start = time.perf_counter()
            losses = _train_epoch(fabric, model, optimizers, batches, settings, history.scores)
            images_per_s = len(batches) * settings.batch_size / (time.perf_counter() - start)
            score = validation_map(detector, validation_batches, settings.hu, settings.channels_last, bf16)
            history.add(losses, score, optimizers[0].param_groups[0]["lr"], detector.state_dict())
            seconds = time.perf_counter() - start
            history.times.append({"epoch": len(history.rows), "images_per_s": images_per_s, "seconds": seconds})
            if fabric.is_global_zero:
                weights = {"detector": detector.state_dict(), "optimizers": [own.state_dict() for own in optimizers]}
                save_state(training.state_folder, {**vars(history), **weights})
                history.write()  # after the state, so that a history on disk is never ahead of it
                print(history.last_line(settings.epochs), flush=True)
            fabric.barrier()
    detector.load_state_dict(history.best)
    return history


def _set_up(fabric: Fabric, training: Training) -> tuple[nn.Module, list[Optimizer]]:
    """The detector, whose `losses` Fabric shares out, and its optimisers on this process's device."""
    detector, hardware = training.detector, training.hardware
    if hardware.device == "cuda" and hardware.processes > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(detector)
    if training.settings.channels_last:
        detector.to(memory_format=torch.channels_last)
    if training.settings.compile:
        compile_network(detector, hardware.device, "train.compile")
    model, *optimizers = fabric.setup(detector, *build_optimizers(training.settings.optimizer, detector))
    model.mark_forward_method(detector.losses)  # what DistributedDataParallel wraps
    return model, optimizers


def _resume(fabric: Fabric, training: Training, optimizers: Sequence[Optimizer]) -> History:
    """Detector, optimisers and history as an interrupted run left them; without one an empty history."""
    state = fabric.broadcast(load_state(training.state_folder) if fabric.is_global_zero else None)
    if state is None:
        return History()
    training.detector.load_state_dict(state["detector"])
    for optimizer, own in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(own)
    if fabric.is_global_zero:
        print(f"resuming after epoch {len(state['rows'])} from {training.state_folder}", flush=True)
    return History(state["rows"], state["times"], state["best"])


def _loaders(fabric: Fabric, training: Training) -> tuple[DataLoader, DataLoader]:
    """This process's share of every training batch and of the validation slices."""
    settings, hardware = training.settings, training.hardware
    rank, processes = fabric.global_rank, hardware.processes
    batch = settings.batch_size // processes
    sampler = EpochSampler(len(training.slices), settings.batch_size, settings.seed, rank, processes)
    share = Subset(training.validation_slices, range(rank, len(training.validation_slices), processes))
    loaders = loader(training.slices, batch, sampler, hardware), loader(share, batch, None, hardware)
    return tuple(fabric.setup_dataloaders(*loaders, use_distributed_sampler=False))


def _train_epoch(
    fabric: Fabric,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    batches: DataLoader,
    settings: TrainingSettings,
    scores: Sequence[float],
) -> dict[str, float]:
    """One step for each batch; the losses by name, means over all steps and processes."""
    model.train()
    sums: dict[str, Tensor] = {}
    for step, batch in enumerate(_batches_of_epoch(fabric, batches, settings, len(scores))):
        passed = len(scores) + (step + 0.5) / len(batches)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(settings, scores, passed)
        losses = batch_losses(model, batch, settings)
        if fabric.device.type == "cpu" or step % CHECK_EVERY == 0:
            require_finite(fabric, losses, settings, len(scores), step)
        model.zero_grad()
        fabric.backward(losses["total"])
        clip_gradients(model, settings.gradient_clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach()
    means = {name: value / len(batches) for name, value in sums.items()}
    require_finite(fabric, means, settings, len(scores), len(batches) - 1)
    return {name: float(fabric.all_reduce(value, reduce_op="mean")) for name, value in means.items()}


def _batches_of_epoch(fabric: Fabric, batches: DataLoader, settings: TrainingSettings, epoch: int) -> Iterator[Batch]:
    """The batches of an epoch (from 0); what a detector draws meanwhile depends on seed, epoch and process alone."""
    batches.sampler.epoch = epoch
    seed = np.random.SeedSequence([settings.seed, epoch, fabric.global_rank]).generate_state(1)[0]
    if fabric.is_global_zero and sys.stderr.isatty():
        batches = progress(batches, f"epoch {epoch + 1}/{settings.epochs}", unit="batch")
    for step, batch in enumerate(batches):
        if step == 0:  # starting the loader has drawn a number
            torch.manual_seed(int(seed))
        yield batch


def batch_losses(model: nn.Module, batch: Batch, settings: TrainingSettings) -> dict[str, Tensor]:
    """`total`, the weighted sum of the losses of `model`, a detector, and its parts: scalars."""
    masks = None if batch.masks is None else list(batch.masks.split(batch.counts))
    targets = Targets(list(batch.boxes.split(batch.counts)), masks, batch.negatives)
    images = prepare(batch.hu, settings.hu, settings.channels_last)
    with autocast(images.device, settings.arithmetic.bf16):
        parts = model.losses(images, targets, share_counts)
    weights = {"mask": settings.mask_loss_weight}
    return {"total": sum(weights.get(name, 1.0) * part for name, part in parts.items()), **parts}


def clip_gradients(model: nn.Module, norm: float | None) -> None:
    """Scale all gradients down where their common norm is greater; None: leave them."""
    if norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), norm)


def require_finite(
    fabric: Fabric, losses: Mapping[str, Tensor], settings: TrainingSettings, epoch: int, step: int
) -> None:
    """Stop all processes when the loss of one is not finite; the first reports it in a UserError."""
    if torch.isfinite(fabric.all_reduce(losses["total"].detach().clone(), reduce_op="mean")):
        return
    leave_report_to_first(fabric)
    own = {name: float(value.detach()) for name, value in losses.items()}
    values = "in the first process: " if fabric.world_size > 1 else ""
    values += ", ".join(f"{name} {value:.4g}" for name, value in own.items())
    if all(map(math.isfinite, own.values())):
        values += "; not finite in another process"
    raise UserError(
        f"training: the loss is not finite in epoch {epoch + 1}, step {step + 1} ({values}); lower train.learning_rate "
        f"(now {settings.learning_rate:g}) or train.gradient_clip_norm (now {settings.gradient_clip_norm}), "
        "or set train.precision to 32"
    )
