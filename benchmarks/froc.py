"""How fast the FROC and its intervals are at the size of DeepLesion's test split, beside the rule in plain Python.

    OMP_NUM_THREADS=1 python benchmarks/froc.py

289,000 made-up detections on 4,817 slices with 4,912 lesions of 660 patients; matching included. Both must agree.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from lesionpipe.evaluate.bootstrap import PatientDraws, percentile_interval, resample_sensitivity
from lesionpipe.evaluate.froc import overlapping_pairs, pooled_events, sensitivity
from lesionpipe.evaluate.truth import Detections, Truth

IMAGES, LESIONS, PATIENTS, DETECTIONS, SAMPLES = 4817, 4912, 660, 289_000, 1000
RATES = np.array([0.5, 1, 2, 4, 8, 16])


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    truth, found = made_up_set(np.random.default_rng(0))
    draws = PatientDraws(PATIENTS, SAMPLES, seed=0)
    plain_s, expected = timed(lambda: plain_sensitivity(truth, found), repeats=1)
    curve_s, result = timed(lambda: sensitivity(events_of(truth, found), RATES), repeats=5)
    bootstrap_s, (low, high) = timed(
        lambda: percentile_interval(resample_sensitivity(events_of(truth, found), RATES, draws)), 1
    )
    assert np.allclose(expected, result, rtol=0, atol=1e-12), (expected, result)

    print(f"{DETECTIONS} detections, {IMAGES} slices, {LESIONS} lesions, {PATIENTS} patients; one core")
    print(f"plain Python, one curve               {plain_s:8.3f} s")
    print(f"lesionpipe, one curve (best of 5)     {curve_s:8.3f} s   {plain_s / curve_s:7.0f} x")
    print(f"plain Python, {SAMPLES} draws (reckoned)   {plain_s * SAMPLES:8.0f} s")
    print(f"lesionpipe, {SAMPLES} draws               {bootstrap_s:8.3f} s   {plain_s * SAMPLES / bootstrap_s:7.0f} x")
    for rate, value, bottom, top in zip(RATES, result, low, high, strict=True):
        print(f"  sensitivity at {rate:4g} FPs: {value:.4f}  [{bottom:.4f}, {top:.4f}]")


def events_of(truth: Truth, found: Detections):
    return pooled_events(truth, found, overlapping_pairs(truth, found))


def timed(job: Callable, repeats: int) -> tuple[float, object]:
    """Seconds of the fastest of `repeats` runs, and the result."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = job()
        best = min(best, time.perf_counter() - start)
    return best, result


def made_up_set(rng: np.random.Generator) -> tuple[Truth, Detections]:
    """Nine in ten lesions are met by three detections each; all others fall anywhere."""
    places, lesions = rng.integers(IMAGES, size=LESIONS), random_boxes(rng, LESIONS)
    owners = np.sort(np.concatenate([np.arange(PATIENTS), rng.integers(PATIENTS, size=IMAGES - PATIENTS)]))
    truth = Truth(tuple(map(str, range(IMAGES))), owners, places, lesions)
    met = np.repeat(np.flatnonzero(rng.random(LESIONS) < 0.9), 3)
    rest = DETECTIONS - len(met)
    images = np.concatenate([places[met], rng.integers(IMAGES, size=rest)])
    boxes = np.concatenate([lesions[met] + rng.normal(0, 3, (len(met), 4)), random_boxes(rng, rest)])
    scores = np.concatenate([rng.beta(2, 2, len(met)), rng.beta(0.5, 6, rest)])
    return truth, Detections(images, boxes, scores)


def random_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    centres, sides = rng.uniform(50, 450, (number, 2)), 8 + rng.gamma(3, 10, (number, 2))
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


def plain_sensitivity(truth: Truth, found: Detections) -> np.ndarray:
    """The published rule, one detection after the other."""
    lesions_of = [np.flatnonzero(truth.lesion_images == image) for image in range(IMAGES)]
    hit = np.zeros(LESIONS, dtype=bool)
    hits, false, sensitivities, fps = 0, 0, [0.0], [0.0]
    for i in np.argsort(found.scores)[::-1]:
        lesions = lesions_of[found.images[i]]
        near = lesions[plain_iou(found.boxes[i], truth.lesion_boxes[lesions]) >= 0.5]
        false += len(near) == 0
        hits += int((~hit[near]).sum())
        hit[near] = True
        sensitivities.append(hits / LESIONS)
        fps.append(false / IMAGES)
    return np.interp(RATES, fps, sensitivities)


def plain_iou(box: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    width = np.minimum(box[2], lesions[:, 2]) - np.maximum(box[0], lesions[:, 0]) + 1
    height = np.minimum(box[3], lesions[:, 3]) - np.maximum(box[1], lesions[:, 1]) + 1
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    areas = (lesions[:, 2] - lesions[:, 0] + 1) * (lesions[:, 3] - lesions[:, 1] + 1)
    return overlap / (areas + (box[2] - box[0] + 1) * (box[3] - box[1] + 1) - overlap)


if __name__ == "__main__":
    main()
