"""Reading masks: the bit-packed store of the pipeline beside COCO's run-length encoding (pycocotools).

    python benchmarks/mask_store.py [--masks data/masks] [--parts 01 02 03 04] [--lesions 32000] [--side 512]

Reads every slice of the given parts, then of a made store of ellipses with the sizes of DeepLesion's lesions, by both
ways, and prints the microseconds per slice (the best of several passes) and the bytes of both.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from lesionpipe.core.errors import run
from lesionpipe.data.masks import MaskStore, StoredMask, write_masks

PASSES = 5
MEDIAN_DIAMETER_PX, SPREAD = 20.0, 0.6  # log-normal, of a 512 px slice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", default="data/masks", help="folder of the stage masks")
    parser.add_argument("--parts", nargs="*", default=["01", "02", "03", "04"])
    parser.add_argument("--lesions", type=int, default=32000, help="of the made store")
    parser.add_argument("--side", type=int, default=512, help="px, of its slices")
    options = parser.parse_args()
    print("| masks | lesions | slices | bit-packed | RLE | RLE, copied to (k, S, S) | bit-packed bytes | RLE bytes |")
    print("|---|---|---|---|---|---|---|---|")
    if options.parts:
        compare_ways(options.masks, options.masks, options.parts)
    with tempfile.TemporaryDirectory() as folder:
        write_masks(Path(folder) / "01.npz", made_masks(options.lesions, options.side), options.side)
        compare_ways("made", folder, ["01"])


def made_masks(count: int, side: int) -> list[StoredMask]:
    """One ellipse a slice, on random places."""
    random = np.random.default_rng(0)
    masks = []
    for i in range(count):
        width, height = np.clip(random.lognormal(np.log(MEDIAN_DIAMETER_PX * side / 512), SPREAD, 2), 2, side / 2)
        y, x = np.mgrid[: int(height) + 1, : int(width) + 1]
        mask = ((x - width / 2) / (width / 2)) ** 2 + ((y - height / 2) / (height / 2)) ** 2 <= 1
        x0, y0 = random.integers(0, side - np.array(mask.shape[::-1]) + 1)
        masks.append(StoredMask(i + 1, i, int(x0), int(y0), mask if mask.any() else np.ones_like(mask)))
    return masks


def compare_ways(name: str, folder: str | Path, parts: list[str]) -> None:
    """Print one line of the table."""
    store = MaskStore.open(folder, parts)
    slices = [(part, row) for part in parts for row in store.rows(part)]
    encoded = {key: coco_mask.encode(np.asfortranarray(_stacked(store, *key))) for key in slices}
    for key in slices:
        assert (coco_mask.decode(encoded[key]).transpose(2, 0, 1) == store.of_slice(*key)[1]).all()
    packed = seconds_per_slice(lambda key: store.of_slice(*key), slices)
    plain = seconds_per_slice(lambda key: coco_mask.decode(encoded[key]), slices)
    copied = seconds_per_slice(
        lambda key: np.ascontiguousarray(coco_mask.decode(encoded[key]).transpose(2, 0, 1)), slices
    )
    lesions = sum(map(len, encoded.values()))
    sizes = sum((Path(folder) / f"{part}.npz").stat().st_size for part in parts)
    counts = sum(len(rle["counts"]) for rles in encoded.values() for rle in rles)
    times = " | ".join(f"{1e6 * seconds:.1f} µs" for seconds in (packed, plain, copied))
    print(f"| {name} | {lesions} | {len(slices)} | {times} | {sizes} | {counts} |")


def _stacked(store: MaskStore, part: str, row: int) -> np.ndarray:
    """uint8 (S, S, k), as pycocotools encodes."""
    return store.of_slice(part, row)[1].astype(np.uint8).transpose(1, 2, 0)


def seconds_per_slice(read: Callable, slices: list) -> float:
    """The best of several passes over all slices."""
    best = float("inf")
    for _ in range(PASSES):
        start = time.perf_counter()
        for key in slices:
            read(key)
        best = min(best, (time.perf_counter() - start) / len(slices))
    return best


if __name__ == "__main__":
    run(main)
