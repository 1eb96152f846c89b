"""What a training leaves beside its weights: a row per epoch, and apart from it the times, which no run repeats.

metrics/train.csv has the columns epoch (from 1), loss_total and loss_NAME (means over the steps; the parts are the
detector's `loss_names`, unweighted), val_map (average precision at IoU 0.5 on the validation split) and learning_rate
(of the epoch's last step); data/times/train.csv has epoch, images_per_s (of training alone) and seconds (of the epoch
with its validation).
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from torch import Tensor

from lesionpipe.core.formats import write_csv
from lesionpipe.train.schedule import best_epoch

HISTORY_FILE = Path("metrics/train.csv")
TIMES_FILE = Path("data/times/train.csv")


@dataclass
class History:
    """The finished epochs, and the weights of the best (the detector's state dict, on the CPU)."""

    rows: list[dict[str, float]] = field(default_factory=list)
    times: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def scores(self) -> list[float]:
        """Validation mAP of each finished epoch."""
        return [row["val_map"] for row in self.rows]

    def add(self, losses: dict[str, float], val_map: float, learning_rate: float, weights: dict[str, Tensor]) -> None:
        """Add an epoch; its weights are copied if they are better than all before."""
        if val_map > max(self.scores, default=-1.0):
            self.best = {name: value.detach().cpu().clone() for name, value in weights.items()}
        columns = {f"loss_{name}": value for name, value in losses.items()}
        self.rows.append({"epoch": len(self.rows) + 1, **columns, "val_map": val_map, "learning_rate": learning_rate})

    def add_times(self, images_per_s: float, seconds: float) -> None:
        """Add the times of the epoch that was added last."""
        self.times.append({"epoch": len(self.rows), "images_per_s": images_per_s, "seconds": seconds})

    def table(self) -> pd.DataFrame:
        """metrics/train.csv."""
        return pd.DataFrame(self.rows)

    def write(self) -> None:
        """Write both tables."""
        write_csv(HISTORY_FILE, self.table())
        write_csv(TIMES_FILE, pd.DataFrame(self.times))

    def last_line(self, epochs: int) -> str:
        """The last of at most `epochs` epochs in one line."""
        row, times = self.rows[-1], self.times[-1]
        losses = ", ".join(f"{name[5:]} {value:.4f}" for name, value in row.items() if name.startswith("loss_"))
        speed = f"{times['images_per_s']:.1f} images/s"
        return f"epoch {row['epoch']}/{epochs}: {losses}; val mAP {row['val_map']:.4f}; {speed}"

    def summary(self) -> dict[str, float]:
        """metrics/train.json: the best epoch (from 1), its validation mAP, and the epochs trained."""
        best = best_epoch(self.scores)
        return {"best_epoch": best + 1, "val_map": round(self.scores[best], 6), "epochs": len(self.rows)}
