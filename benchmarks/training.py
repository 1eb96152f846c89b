"""What a training step costs: images/s and share of the processor's matrix-product peak, of the default and of others.

    dvc repro anchors && python benchmarks/training.py [--precision auto|bf16|32] [--iterations 12]
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/training.py       # as on a processor with AVX2

Each line of the table changes one thing of the line before, from the recipe of version 0.1.0 to that of params.yaml. A
step is forward, matching, losses, backward and optimiser on random images; reading and augmenting run beside it in a
training and are not in it. All lines are timed in turn; the shortest time of each counts, since other load only adds.
The share is of the FLOPs of convolutions and matrix products (backward: twice the forward), without the optimiser's.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from detector import Setting, flops, matmul_peak, our_step, times

from lesionpipe.anchors.grid import read_anchors
from lesionpipe.core.bfloat16 import choose_arithmetic
from lesionpipe.core.devices import tune_for
from lesionpipe.detectors.build import build_detector
from lesionpipe.detectors.interface import DecodingSettings, Detector
from lesionpipe.params import Params, load_params

ROOT = Path(__file__).parents[1]
# name, and what changes of `network` and `train`
LINES: dict[str, dict[str, Any]] = {
    "version 0.1.0": {"windows": (), "head_channels": 64, "batch_size": 8, "optimizer": "adam", "crop": 1.0},
    "+ a soft-tissue window": {"windows": ((-160, 240),)},
    "+ heads of 32 channels": {"head_channels": 32},
    "+ batch 4": {"batch_size": 4},
    "+ crops of 3/4 side": {"crop": 0.75},
    "+ Muon": {"optimizer": "muon"},
}


def main(
    precision: Annotated[str, typer.Option(help="auto, bf16 or 32")] = "auto",
    iterations: Annotated[int, typer.Option(min=1)] = 12,
) -> None:
    params = load_params(ROOT / "params.yaml")
    arithmetic = choose_arithmetic(precision, "cpu", training=True)
    tune_for("cpu")
    jobs, images, work, changes, slices = {}, {}, {}, {}, params.preprocess.slices
    for name, change in LINES.items():
        changes |= change
        detector, setting = _contestant(params, changes, arithmetic.precision, iterations)
        images[name], work[name] = setting.batch, 3 * flops(detector, setting, slices)
        jobs[name] = our_step(detector, setting, False, slices, changes["optimizer"])
    seconds, peak = times(jobs, setting), matmul_peak(setting, 2048)
    print(f"{arithmetic.precision}, {torch.get_num_threads()} threads; matrix product {peak / 1e9:.0f} GFLOP/s")
    print(f"{'':24s} {'images/s':>9s} {'GFLOP per image':>16s} {'of peak':>8s}")
    for name in LINES:
        rate = images[name] / seconds[name]
        print(f"{name:24s} {rate:9.1f} {work[name] / 1e9:16.2f} {100 * rate * work[name] / peak:6.1f} %")


def _contestant(params: Params, changes: dict[str, Any], precision: str, iterations: int) -> tuple[Detector, Setting]:
    """A fresh detector and the side and number of images of its steps."""
    names = ("windows", "head_channels")
    network = params.network.model_copy(update={name: changes[name] for name in names})
    side = round(changes["crop"] * params.preprocess.image_size)
    decoding = DecodingSettings(**params.detect.model_dump(include=set(DecodingSettings.__annotations__)))
    setting = Setting(
        side, changes["batch_size"], "cpu", precision, iterations, False, params.preprocess, decoding, 0.0
    )
    torch.manual_seed(0)
    detector = build_detector(network, params.preprocess, read_anchors(ROOT / "data/anchors.json"))
    return setting.place(detector), setting


if __name__ == "__main__":
    typer.run(main)
