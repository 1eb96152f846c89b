"""What is kept of a training while it runs: history, best weights, the state for a resume, and what is shown."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import lightning as L
import pandas as pd
import torch
from torch import Tensor

from lesionpipe.core.formats import write_csv
from lesionpipe.core.progress import progress
from lesionpipe.data.samples import Batch
from lesionpipe.train import schedule
from lesionpipe.train.module import DetectorTraining
from lesionpipe.train.state import save_state

LOSSES = ("total", "classification", "box", "mask")


@dataclass
class History:
    """The finished epochs, and the weights of the best."""

    rows: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def scores(self) -> list[float]:
        return [row["val_map"] for row in self.rows]

    def table(self) -> pd.DataFrame:
        """One row per epoch, see `EpochRecord`."""
        return pd.DataFrame(self.rows)


class EpochRecord(L.Callback):
    """After each epoch: a row of history, the best weights, the resume state, a line on stdout; ends the training.

    Columns of the history: epoch (from 1), loss_total, loss_classification, loss_box, loss_mask (if any), val_map (IoU
    0.5), learning_rate (at the epoch's end), images_per_s (training only), seconds (with validation).

    Args:
        history: of the epochs before, added to.
        state_folder: of the resume state.
        path: where the history is written as CSV, or None.
        batch: images per step, over all processes.
        say: prints a line.
    """

    def __init__(
        self, history: History, state_folder: Path, path: Path | None, batch: int, say: Callable[[str], None] = print
    ):
        self.history, self.state_folder, self.path = history, state_folder, path
        self.batch, self.say = batch, say
        self._bar = None

    def on_train_epoch_start(self, trainer: L.Trainer, module: DetectorTraining) -> None:
        self._sums: dict[str, Tensor] = {}
        self._start, self._trained, self._steps = time.perf_counter(), 0.0, 0
        if trainer.is_global_zero and sys.stderr.isatty():
            label = f"epoch {len(self.history.rows) + 1}/{module.settings.epochs}"
            self._bar = progress(None, label, trainer.num_training_batches * self.batch, unit="image")

    def on_train_batch_end(
        self, trainer: L.Trainer, module: DetectorTraining, outputs: dict[str, Tensor], batch: Batch, step: int
    ) -> None:
        for name in LOSSES:
            if name in outputs:
                self._sums[name] = self._sums.get(name, 0) + outputs[name]
        self._steps += 1
        if self._bar is not None:
            self._bar.update(self.batch)
            if step % 25 == 0:
                self._bar.set_postfix({name: f"{float(outputs[name]):.3f}" for name in self._sums}, refresh=False)

    def on_validation_start(self, trainer: L.Trainer, module: DetectorTraining) -> None:
        losses = {name: value / self._steps for name, value in self._sums.items()}
        module.require_finite(losses, self._steps - 1)
        self._losses = {
            f"loss_{name}": float(trainer.strategy.reduce(value, reduce_op="mean")) for name, value in losses.items()
        }
        self._trained = time.perf_counter() - self._start

    def on_train_epoch_end(self, trainer: L.Trainer, module: DetectorTraining) -> None:
        score = module.validation_map()
        if score > max(module.scores, default=-1.0):
            self.history.best = {
                name: value.detach().cpu().clone() for name, value in module.network.state_dict().items()
            }
        module.scores.append(score)
        self.history.rows.append(self._row(module, score))
        if trainer.is_global_zero:
            self._keep(trainer, module)
            self._show(module.settings.epochs)
        trainer.strategy.barrier()
        trainer.should_stop = trainer.should_stop or schedule.finished(module.settings, module.scores)

    def _row(self, module: DetectorTraining, score: float) -> dict[str, float]:
        return {
            "epoch": len(self.history.rows) + 1,
            **self._losses,
            "val_map": score,
            "learning_rate": module.optimizers().param_groups[0]["lr"],
            "images_per_s": self._steps * self.batch / self._trained,
            "seconds": time.perf_counter() - self._start,
        }

    def _keep(self, trainer: L.Trainer, module: DetectorTraining) -> None:
        """The state first: a history on disk is never ahead of it."""
        save_state(
            self.state_folder,
            {
                "rows": self.history.rows,
                "best": self.history.best,
                "network": module.network.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict(),
            },
        )
        if self.path is not None:
            write_csv(self.path, self.history.table())

    def _show(self, epochs: int) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        row = self.history.rows[-1]
        losses = ", ".join(f"{name} {row[f'loss_{name}']:.4f}" for name in LOSSES if f"loss_{name}" in row)
        self.say(
            f"epoch {row['epoch']}/{epochs}: {losses}; val mAP {row['val_map']:.4f}; {row['images_per_s']:.1f} images/s"
        )


class Restore(L.Callback):
    """Puts weights and optimiser of an interrupted training back, once the optimiser exists."""

    def __init__(self, state: dict):
        self.state = state

    def on_fit_start(self, trainer: L.Trainer, module: DetectorTraining) -> None:
        with torch.no_grad():
            module.network.load_state_dict(self.state["network"])
        trainer.optimizers[0].load_state_dict(self.state["optimizer"])
        self.state = {}
