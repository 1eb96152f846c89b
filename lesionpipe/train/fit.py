"""Train a detector: loaders, Lightning's trainer, resume (paper, sec. 2.3, "Training").

`train.batch_size` counts images over all processes: on two GPUs each takes half of every batch, and the result is that of
one GPU up to rounding.
"""

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, Subset

from lesionpipe.core.devices import Machine, compile_network
from lesionpipe.core.errors import UserError
from lesionpipe.data.samples import loader
from lesionpipe.params import Train
from lesionpipe.train import schedule
from lesionpipe.train.dataset import EpochSampler, LesionDataset
from lesionpipe.train.module import DetectorTraining
from lesionpipe.train.record import EpochRecord, History, Restore
from lesionpipe.train.state import load_state


def fit(
    module: DetectorTraining,
    training: LesionDataset,
    validation: LesionDataset,
    machine: Machine,
    state_folder: Path,
    history_path: Path | None,
) -> tuple[History, bool]:
    """Train until the schedule ends, going on from `state_folder` if an interrupted run left its state there.

    Returns:
        The history with the best weights, and whether this process is the one that writes the results.

    Raises:
        UserError: nothing to learn from, a batch that can't be shared out, a loss that is not finite.
    """
    settings = module.settings
    _check(training, validation, settings.batch_size, machine.processes)
    state = load_state(state_folder)
    history = History(state["rows"], state["best"]) if state else History()
    module.scores = history.scores
    if settings.channels_last:
        module.network.to(memory_format=torch.channels_last)
    if schedule.finished(settings, history.scores):
        return history, int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0
    if state and not int(os.environ.get("LOCAL_RANK", 0)):
        print(f"resuming after epoch {len(history.rows)} from {state_folder}")
    callbacks = [
        EpochRecord(history, state_folder, history_path, settings.batch_size),
        *([Restore(state)] if state else []),
    ]
    trainer = build_trainer(settings, machine, callbacks, settings.epochs - len(history.rows))
    loaders = Loaders(training, validation, settings, machine, len(history.rows))
    if settings.compile:
        compile_network(module.network, machine.device, "train.compile")
    with _repeatable(machine.device):
        _run(trainer, module, loaders)
    return history, trainer.is_global_zero


def _run(trainer: L.Trainer, module: DetectorTraining, loaders: "Loaders") -> None:
    """`trainer.fit`, but Ctrl-C stays what it is; Lightning makes it an exit without a word."""
    try:
        trainer.fit(module, datamodule=loaders)
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise


@contextlib.contextmanager
def _repeatable(device: str) -> Iterator[None]:
    """On a CPU only deterministic algorithms, without the costly filling of fresh memory; a GPU is left to be fast."""
    before, filling = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(device == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filling


def build_trainer(train: Train, machine: Machine, callbacks: list[L.Callback], epochs: int) -> L.Trainer:
    """A trainer without loggers, checkpoints, banners or folders of its own."""
    _quieten()
    cuda = machine.device == "cuda"
    return L.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=machine.devices,
        num_nodes=machine.nodes,
        strategy="ddp" if machine.processes > 1 else "auto",
        sync_batchnorm=cuda and machine.processes > 1,
        precision="bf16-mixed" if train.precision == "bf16" else "32-true",
        max_epochs=epochs,
        callbacks=callbacks,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class Loaders(L.LightningDataModule):
    """The loaders of one process; Lightning asks for them once the processes know their ranks."""

    def __init__(self, training: LesionDataset, validation: LesionDataset, train: Train, machine: Machine, done: int):
        super().__init__()
        self.training, self.validation = training, validation
        self.settings, self.machine, self.done = train, machine, done

    def train_dataloader(self) -> DataLoader:
        settings, processes = self.settings, self.machine.processes
        sampler = EpochSampler(
            len(self.training), settings.batch_size, settings.seed, self.trainer.global_rank, processes, self.done
        )
        return self._loader(self.training, settings.batch_size // processes, sampler)

    def val_dataloader(self) -> DataLoader:
        rank, processes = self.trainer.global_rank, self.machine.processes
        share = Subset(self.validation, range(rank, len(self.validation), processes))
        return self._loader(share, max(self.settings.batch_size // processes, 1), None)

    def _loader(self, dataset: LesionDataset | Subset, batch: int, sampler: EpochSampler | None) -> DataLoader:
        return loader(dataset, batch, sampler, self.machine)


def _check(training: LesionDataset, validation: LesionDataset, batch: int, processes: int) -> None:
    for name, dataset in (("train", training), ("val", validation)):
        if len(dataset) == 0:
            raise UserError(f"data/slices: no slice of the {name} split among dataset.parts; add parts that have some")
        if len(dataset) < processes:
            raise UserError(f"data/slices: {len(dataset)} slices of the {name} split for {processes} processes")
    if batch % processes:
        raise UserError(
            f"params.yaml: train.batch_size = {batch} can't be shared out evenly over {processes} processes"
        )


@functools.cache
def _quieten() -> None:
    """Keep Lightning's banners, hints and warnings about loaders out of the log; errors still come through."""
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*LeafSpec.*",
        ".*isinstance.treespec.*",
        ".*in eval mode at the start.*",
    ):
        warnings.filterwarnings("ignore", message)
