"""How fast `preprocess` is compared with merely decoding the PNGs it needs, and how much memory it takes.

    python benchmarks/preprocess.py                      # a synthetic part of 2.1 GB with 512 px slices
    python benchmarks/preprocess.py --gigabytes 0.1      # a quick look
    python benchmarks/preprocess.py --archive data/phantom/01/Images_png_01.zip --key-slices data/key_slices/01.csv

The synthetic part has a real part's proportions: one key slice in about 7.5 MB of archive (4.3 GB and 570 key slices),
intervals as they occur in DeepLesion, and slices that decode as slowly as genuine ones (about 250 kB each). Its slices
repeat 200 different images. Both jobs read the same members of the same zip with the same number of threads, in turn.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from lesionpipe.core.parallel import cores
from lesionpipe.download.reader import ZipReader, split_name
from lesionpipe.params import Preprocess, load_params
from lesionpipe.preprocess.part import plan_stack, preprocess_part, read_key_slices

PAPER = Preprocess(image_size=512, slices=3, spacing_mm=2.0, hu=(-1024, 1050))
SIDE = 512
DIFFERENT = 200
SERIES_SLICES = 60
KEY_EVERY = 30  # slices: two key slices per series, as in a real part
INTERVALS_MM = (5, 5, 5, 5, 5, 5, 1, 1, 2, 3, 2.5, 1.25)
OFFICIAL_KEY_SLICES = 32120
OFFICIAL_BYTES = 238.1e9


def make_part(folder: Path, gigabytes: float) -> tuple[Path, Path]:
    """A zip of about `gigabytes` and its table of key slices."""
    rng = np.random.default_rng(0)
    with ThreadPoolExecutor() as pool:
        pngs = list(pool.map(_png, rng.integers(1 << 31, size=DIFFERENT)))
    archive, rows, written, series_number = folder / "Images_png_01.zip", [], 0, 0
    with zipfile.ZipFile(archive, "w") as out:
        while written < gigabytes * 1e9:
            series_number += 1
            series = f"{series_number:06d}_01_01"
            for number in range(1, SERIES_SLICES + 1):
                png = pngs[(series_number * SERIES_SLICES + number) % DIFFERENT]
                out.writestr(f"Images_png/{series}/{number:03d}.png", png)
                written += len(png)
            for number in range(KEY_EVERY // 2, SERIES_SLICES, KEY_EVERY):
                interval = INTERVALS_MM[series_number % len(INTERVALS_MM)]
                rows.append((f"{series}_{number:03d}.png", "train", interval, SIDE, SIDE))
    columns = ("file_name", "split", "slice_interval_mm", "width_original_px", "height_original_px")
    pd.DataFrame(rows, columns=columns).to_csv(folder / "01.csv", index=False)
    return archive, folder / "01.csv"


def _png(seed: int) -> bytes:
    """A smooth body with noise in air: 16-bit grey, about as large as a genuine slice."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 60, (24, 24)).astype(np.float32)
    image = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 15, (SIDE, SIDE))
    y, x = np.ogrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    air = (x / 0.95) ** 2 + (y / 0.8) ** 2 > 1
    image[air] = -1000 + rng.normal(0, 6, air.sum())
    return cv2.imencode(".png", (image + 32768).astype(np.uint16))[1].tobytes()


def needed_names(reader: ZipReader, key_slices: pd.DataFrame, settings: Preprocess) -> list[str]:
    """Every slice that the part's stacks need, once, in the archive's order."""
    names = set()
    for row in key_slices.itertuples():
        series, number = split_name(row.file_name)
        plan = plan_stack(
            int(number),
            row.slice_interval_mm,
            lambda n, s=series: reader.exists(f"{s}_{n:03d}.png"),
            settings.slices,
            settings.spacing_mm,
        )
        names.update(f"{series}_{n:03d}.png" for n in plan.needed)
    return sorted(names)


def decode_only(reader: ZipReader, names: list[str], workers: int) -> float:
    """Seconds to read and decode the PNGs, nothing else."""

    def decode(name: str) -> None:
        cv2.imdecode(np.frombuffer(reader.read_bytes(name), np.uint8), cv2.IMREAD_UNCHANGED)

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(decode, names):
            pass
    return time.perf_counter() - start


def stage(archive: Path, table: pd.DataFrame, settings: Preprocess, out: Path, workers: int) -> float:
    """Seconds of the stage's job, from opening the archive to the synced files."""
    start = time.perf_counter()
    preprocess_part(ZipReader(archive), table, settings, "01", out, workers)
    return time.perf_counter() - start


def measure(archive: Path, key_slices: Path, settings: Preprocess, out: Path, workers: int, repeats: int) -> dict:
    table = read_key_slices(key_slices.stem, key_slices.parent)
    reader = ZipReader(archive)
    names = needed_names(reader, table, settings)
    megabytes = sum(len(reader.read_bytes(name)) for name in names) / 1e6  # this also warms the page cache for both
    decode_s, stage_s = [], []
    for _ in range(repeats):
        decode_s.append(decode_only(reader, names, workers))
        stage_s.append(stage(archive, table, settings, out, workers))
    decode, whole = statistics.median(decode_s), statistics.median(stage_s)
    return {
        "archive_gb": round(archive.stat().st_size / 1e9, 3),
        "key_slices": len(table),
        "slices_decoded": len(names),
        "png_mb": round(megabytes),
        "written_mb": round((out / "01.npy").stat().st_size / 1e6),
        "workers": workers,
        "decode_s": [round(s, 2) for s in decode_s],
        "stage_s": [round(s, 2) for s in stage_s],
        "ratio": round(whole / decode, 3),
        "png_mb_per_s": round(megabytes / whole, 1),
        "key_slices_per_s": round(len(table) / whole, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "all_56_parts_min": round(OFFICIAL_KEY_SLICES * whole / len(table) / 60, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "opencv": cv2.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.1)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--key-slices", type=Path)
    parser.add_argument("--params", type=Path, help="a parameter file; default: the paper's preprocess section")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the scratch files go (default: the temporary folder)")
    args = parser.parse_args()
    settings = load_params(args.params).preprocess if args.params else PAPER
    scratch = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        archive, table = (args.archive, args.key_slices) if args.archive else make_part(scratch, args.gigabytes)
        os.sync()  # what was just generated shall not be written to the disk while we measure
        print(json.dumps(measure(archive, table, settings, scratch, args.workers or cores(), args.repeats), indent=2))
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
