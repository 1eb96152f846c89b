"""The anchor search timed on one core, beside the plain computation over all anchor positions.

Usage: OMP_NUM_THREADS=1 python benchmarks/anchors.py path/to/DL_info.csv [first-last level, 2-6]

Plain: the IoU of each box with every anchor of a 512 x 512 slice, vectorised, float32, in pieces that fit the cache;
timed on every ninth box. `largest_difference` is between the two ways' best IoUs. Prints JSON.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from lesionpipe.anchors.grid import SIZES_PX, AnchorSet, anchors_for, centre_inside, paper_set
from lesionpipe.anchors.overlap import BestOverlap
from lesionpipe.anchors.search import SearchSpace, search_anchors
from lesionpipe.commands.anchors import read_boxes
from lesionpipe.core.boxes import pairwise_iou
from lesionpipe.core.errors import run

REPEATS = 200
ANCHORS_AT_A_TIME = 20000
USUAL_SIDE_PX = 512


def plain(boxes: np.ndarray, anchor_set: AnchorSet) -> np.ndarray:
    """Best IoU (n,) by listing all anchors of a slice."""
    anchors = anchors_for(anchor_set, USUAL_SIDE_PX, USUAL_SIDE_PX)
    anchors = anchors[centre_inside(anchors, USUAL_SIDE_PX, USUAL_SIDE_PX)]
    best = np.zeros(len(boxes), np.float32)
    for i in range(len(boxes)):
        for start in range(0, len(anchors), ANCHORS_AT_A_TIME):
            best[i] = max(best[i], pairwise_iou(boxes[i : i + 1], anchors[start : start + ANCHORS_AT_A_TIME]).max())
    return best


def seconds(job) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("boxes", type=Path, help="a DL_info.csv or COCO file")
    parser.add_argument("levels", nargs="?", default="2-6", help="first-last")
    asked = parser.parse_args()
    first, last = map(int, asked.levels.split("-"))
    levels = tuple(range(first, last + 1))
    anchor_set = paper_set(levels)
    boxes, images = read_boxes(asked.boxes, "val")
    usual = (images == USUAL_SIDE_PX).all(axis=1)
    overlap = BestOverlap(boxes, anchor_set.strides, images)
    space = SearchSpace(SIZES_PX, levels, ((0.4, 1.6),) * 3, ((1.0, 4.0),) * 2)
    found = search_anchors(space, overlap, "iou")
    fast = min(seconds(lambda: overlap.of(anchor_set)) for _ in range(REPEATS))
    sample = boxes[usual][::9].astype(np.float32)
    start = time.perf_counter()
    listed = plain(sample, anchor_set)
    slow = (time.perf_counter() - start) * len(boxes) / len(sample)
    exact = BestOverlap(sample, anchor_set.strides, (USUAL_SIDE_PX, USUAL_SIDE_PX)).of(anchor_set)
    print(
        json.dumps(
            {
                "boxes": len(boxes),
                "strides": anchor_set.strides,
                "search_seconds": round(found.seconds, 2),
                "evaluations": found.evaluations,
                "mean_iou_grid": round(1 - found.loss, 4),
                "evaluation_ms": round(1000 * fast, 3),
                "plain_evaluation_ms": round(1000 * slow),
                "plain_measured_on_boxes": len(sample),
                "times_faster": round(slow / fast),
                "largest_difference": float(np.abs(listed - exact).max()),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    run(main)
