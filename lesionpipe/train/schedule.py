"""How the learning rate falls and when training ends (paper, sec. 2.3, "Training").

Both are functions of what has happened so far and keep no state, so an interrupted run goes on as it would have.

plateau: the paper's rule. The rate is divided after some epochs without a better validation mAP, and training stops
after some more. cosine: for a fixed budget of epochs; the rate falls to 0 along half a cosine.
"""

import math
from collections.abc import Sequence

from lesionpipe.params import Train


def rate(train: Train, scores: Sequence[float], passed: float) -> float:
    """Learning rate in the epoch that follows the validation mAPs `scores`.

    Args:
        scores: mAP of each finished epoch.
        passed: epochs passed, with the share of the current one.
    """
    if passed < train.warmup_epochs:
        return train.learning_rate * passed / train.warmup_epochs
    if train.schedule == "plateau":
        return train.learning_rate * train.lr_factor ** drops(scores, train.lr_patience)
    share = (passed - train.warmup_epochs) / max(train.epochs - train.warmup_epochs, 1e-9)
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1)))


def drops(scores: Sequence[float], patience: int) -> int:
    """How often `patience` epochs in a row had no better mAP; the count starts anew after each drop."""
    best, waited, count = -math.inf, 0, 0
    for score in scores:
        waited = 0 if score > best else waited + 1
        best = max(best, score)
        if waited == patience:
            count, waited = count + 1, 0
    return count


def finished(train: Train, scores: Sequence[float]) -> bool:
    """Whether training ends: all epochs done or, with `plateau`, no better mAP in the last `early_stopping_patience` epochs."""
    if len(scores) >= train.epochs:
        return True
    return (
        train.schedule == "plateau"
        and len(scores) > 0
        and len(scores) - 1 - best_epoch(scores) >= train.early_stopping_patience
    )


def best_epoch(scores: Sequence[float]) -> int:
    """Index of the first epoch with the highest mAP."""
    return max(range(len(scores)), key=lambda i: (scores[i], -i))
