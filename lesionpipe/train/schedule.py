"""How the learning rate falls and when training ends (paper, sec. 2.3, "Training").

Both are functions of what has happened so far and keep no state, so an interrupted run goes on as it would have.
plateau: the paper's rule. The rate is divided after some epochs without a better validation mAP, and training stops
after some more. cosine: for a fixed budget of epochs; the rate falls to 0 along half a cosine.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Values of the section `train`, under the names that they have there."""

    schedule: Literal["plateau", "cosine"]
    epochs: int
    learning_rate: float
    warmup_epochs: float
    lr_patience: int
    lr_factor: float
    early_stopping_patience: int


def learning_rate(settings: Schedule, scores: Sequence[float], passed: float) -> float:
    """The rate of a step, `passed` epochs (with a share of the current one) after the start.

    `scores`: validation mAP of each finished epoch.
    """
    if passed < settings.warmup_epochs:
        return settings.learning_rate * passed / settings.warmup_epochs
    if settings.schedule == "plateau":
        return settings.learning_rate * settings.lr_factor ** lr_drops(scores, settings.lr_patience)
    share = (passed - settings.warmup_epochs) / max(settings.epochs - settings.warmup_epochs, 1e-9)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1)))


def lr_drops(scores: Sequence[float], patience: int) -> int:
    """How often `patience` epochs in a row had no better mAP; the count starts anew after each drop."""
    best, waited, drops = -math.inf, 0, 0
    for score in scores:
        waited = 0 if score > best else waited + 1
        best = max(best, score)
        if waited == patience:
            drops, waited = drops + 1, 0
    return drops


def should_stop(settings: Schedule, scores: Sequence[float]) -> bool:
    """Whether training ends: all epochs are done or, with `plateau`, the best of them lies too far back."""
    if len(scores) >= settings.epochs:
        return True
    if settings.schedule != "plateau" or not scores:
        return False
    return len(scores) - 1 - best_epoch(scores) >= settings.early_stopping_patience


def best_epoch(scores: Sequence[float]) -> int:
    """Index of the first epoch with the highest mAP."""
    return scores.index(max(scores))
