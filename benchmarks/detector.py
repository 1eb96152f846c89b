"""How fast detectors are: beside torchvision's RetinaNet, row by row of the paper and its comparators, and the peak.

Ours and torchvision's share the backbone module, levels, channels, anchors per cell, input, precision, candidates and
NMS threshold, and are timed in turn; with --compiled also the compiled networks of both, and the rows compiled. Times
are the shortest of all rounds, since other load on a machine only adds. Ratios are to torchvision's (and its compiled).
Fresh weights score every anchor above the score threshold, so post-processing sees its worst case in both.

    python benchmarks/detector.py --backbone vgg19 --size 256
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import typer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import RetinaNet
from torchvision_retinanet import torchvision_network

from lesionpipe.anchors.grid import SIZES_PX, AnchorSet, level_numbers, paper_set, retinanet_set
from lesionpipe.core.devices import tune_for
from lesionpipe.detect.stored_slices import build_settings, for_inference
from lesionpipe.detectors.build import build_detector, fixed_anchors
from lesionpipe.detectors.interface import DecodingSettings, Detector, Targets, single_process
from lesionpipe.params import Network, Preprocess, load_params
from lesionpipe.train.optimizers import build_optimizers

ROOT = Path(__file__).parents[1]


class Row(NamedTuple):
    """A line of the table: a change of the section `network`, and the time that the papers report."""

    changes: dict[str, object]
    paper_ms: float | None  # paper, Table 1, on its own GPU; the comparators' from their own papers
    anchors: Callable[..., AnchorSet] | None = None  # None: the kind's own
    slices: int = 3


def retinanet(levels: str, mask_branch: bool, attention: bool) -> dict[str, object]:
    return {"kind": "retinanet", "levels": levels, "mask_branch": mask_branch, "attention": attention}


ROWS = {
    "original RetinaNet": Row(retinanet("P3-P7", False, False), 28, retinanet_set),
    "+ anchor optimisation": Row(retinanet("P3-P7", False, False), 31, paper_set),
    "+ dense supervision": Row(retinanet("P2-P6", True, False), 39, paper_set),
    "+ attention gate": Row(retinanet("P2-P6", True, True), 41, paper_set),
}
COMPARATORS = {"Faster R-CNN": Row({"kind": "faster-rcnn"}, 32), "Mask R-CNN": Row({"kind": "mask-rcnn"}, None)}
PAPER_3DCE_MS = {9: 114}
PEER = "torchvision"
LESIONS = ((0.2, 0.2, 0.26, 0.27), (0.5, 0.6, 0.62, 0.68))  # of each image, as shares of its side


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all contestants share."""

    size: int
    batch: int
    device: str
    precision: str
    iterations: int
    compiled: bool
    preprocess: Preprocess
    decoding: DecodingSettings
    recist_margin_px: float

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    def images(self, batch: int, slices: int = 3) -> Tensor:
        torch.manual_seed(0)
        images = torch.rand(batch, slices, self.size, self.size, device=self.device) * 2 - 1
        return images.contiguous(memory_format=torch.channels_last)

    def boxes(self) -> Tensor:
        return torch.tensor(LESIONS, device=self.device) * self.size

    def place(self, network: nn.Module) -> nn.Module:
        return network.to(self.device, memory_format=torch.channels_last)


def our_detector(params: Network, anchors: AnchorSet, setting: Setting, slices: int = 3) -> Detector:
    preprocess = setting.preprocess.model_copy(update={"slices": slices})
    return setting.place(build_detector(params, preprocess, anchors))


def our_step(
    detector: Detector, setting: Setting, compiled: bool, slices: int = 3, optimizer: str = "adam"
) -> Callable[[], None]:
    """One training step: forward, matching, losses, backward, optimiser."""
    detector.train()
    if compiled:
        detector.compile()
    images = setting.images(setting.batch, slices)
    masks = torch.zeros(len(LESIONS), setting.size, setting.size, dtype=torch.uint8, device=setting.device)
    masks[:, : setting.size // 8, : setting.size // 8] = 1
    targets = Targets([setting.boxes()] * setting.batch, [masks] * setting.batch)
    optimizers = build_optimizers(optimizer, detector)
    for group in (group for own in optimizers for group in own.param_groups):
        group["lr"] = 1e-6

    def step() -> None:
        with setting.autocast():
            losses = detector.losses(images, targets, single_process)
        detector.zero_grad()
        sum(losses.values()).backward()
        for own in optimizers:
            own.step()

    return step


def torchvision_step(network: RetinaNet, setting: Setting) -> Callable[[], None]:
    network.train()
    images = list(setting.images(setting.batch))
    labels = torch.zeros(len(LESIONS), dtype=torch.int64, device=setting.device)
    targets = [{"boxes": setting.boxes(), "labels": labels}] * setting.batch
    optimiser = torch.optim.Adam(network.parameters(), 1e-6, fused=True)

    def step() -> None:
        with setting.autocast():
            losses = network(images, targets)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()

    return step


def our_detection(detector: Detector, setting: Setting, compiled: bool, slices: int = 3) -> Callable[[], None]:
    """Detection in one image, post-processing included."""
    detector = for_inference(detector, setting.precision, setting.device)
    if compiled:
        detector.compile()
    image = setting.images(1, slices)
    margin = setting.recist_margin_px * setting.size / 512

    @torch.inference_mode()
    def detect() -> None:
        detector.predict(image, setting.decoding, margin)

    return detect


def torchvision_detection(network: RetinaNet, setting: Setting) -> Callable[[], None]:
    network.eval()
    images = list(setting.images(1))

    @torch.inference_mode()
    def detect() -> None:
        with setting.autocast():
            network(images)

    return detect


def times(jobs: dict[str, Callable[[], None]], setting: Setting) -> dict[str, float]:
    """Shortest seconds of each job, run in turn; two rounds first that don't count."""
    measured: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(setting.iterations + 2):
        for name, job in jobs.items():
            _wait(setting.device)
            start = time.perf_counter()
            job()
            _wait(setting.device)
            if turn >= 2:
                measured[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in measured.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def matmul_peak(setting: Setting, side: int) -> float:
    """Measured FLOP/s of a square matrix product in the precision of the run, best of ten."""
    dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    a, b = torch.randn(2, side, side, device=setting.device).to(dtype)
    best = float("inf")
    for _ in range(10):
        _wait(setting.device)
        start = time.perf_counter()
        a @ b
        _wait(setting.device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def flops(detector: Detector, setting: Setting, slices: int) -> int:
    """FLOPs of one image forward (a multiplication and an addition are two)."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        detector.eval().predict(setting.images(1, slices), setting.decoding)
    return counter.get_total_flops()


def compare(params: Network, setting: Setting) -> None:
    """Ours and torchvision's, without what torchvision hasn't (mask branch, gates), on both pyramids."""
    for levels in ("P3-P7", "P2-P6"):
        own = params.model_copy(update={"levels": levels, "mask_branch": False, "attention": False})
        anchors = paper_set(level_numbers(own.levels)).scaled(setting.size / 512)
        peers, ours = {}, {}
        for compiled in (False, True)[: 1 + setting.compiled]:
            kind = ", compiled" if compiled else ""
            peers[PEER + kind] = torchvision_network(own, anchors, setting.decoding, setting.size, compiled)
            for width in dict.fromkeys((own.head_channels, own.channels)):  # as set, and as wide as the peer's
                chosen = own.model_copy(update={"head_channels": width})
                ours[f"ours, heads of {width}{kind}"] = our_detector(chosen, anchors, setting), compiled
        peers = {name: setting.place(network) for name, network in peers.items()}
        steps = {name: torchvision_step(network, setting) for name, network in peers.items()}
        steps |= {name: our_step(detector, setting, compiled) for name, (detector, compiled) in ours.items()}
        training = times(steps, setting)
        detections = {name: torchvision_detection(network, setting) for name, network in peers.items()}
        detections |= {name: our_detection(detector, setting, compiled) for name, (detector, compiled) in ours.items()}
        use = times(detections, setting)
        for label, result, images in (("training step", training, setting.batch), ("detection", use, 1)):
            for name, seconds in result.items():
                spent, ratios = 1000 * seconds / images, " ".join(f"{seconds / result[peer]:.2f}" for peer in peers)
                print(f"{levels}  {label:14} {name:28} {spent:9.2f} ms/image   ratio {ratios}", flush=True)


def all_rows(most_images: int) -> dict[str, Row]:
    """The paper's four rows and what it compares them with; 3DCE with 1, 3, 5 … images, each of three slices."""
    images = range(1, most_images + 1, 2)
    context = {f"3DCE, M = {m}": Row({"kind": "3dce"}, PAPER_3DCE_MS.get(m), slices=3 * m) for m in images}
    return ROWS | COMPARATORS | context


def rows(params: Network, setting: Setting, peak: float, training: bool, wanted: dict[str, Row]) -> None:
    """Parameters, FLOPs, time per image in relation to the first row, and share of the peak, of each row."""
    detectors, detections, counts = {}, {}, {}
    for name, row in wanted.items():
        own = params.model_copy(update=row.changes)
        fixed = fixed_anchors(own, setting.size)
        anchors = fixed or row.anchors(level_numbers(own.levels), SIZES_PX).scaled(setting.size / 512)
        detectors[name] = our_detector(own, anchors, setting, row.slices)
        counts[name] = flops(detectors[name], setting, row.slices)
        detections[name] = our_detection(detectors[name], setting, setting.compiled, row.slices)
    use = times(detections, setting)
    trained = detectors if training else {}
    steps = {name: our_step(one, setting, setting.compiled, wanted[name].slices) for name, one in trained.items()}
    step_times, first = times(steps, setting), next(iter(wanted))
    print("row                     parameters  GFLOP  detection   ratio (paper)  of peak   training   ratio  of peak")
    for name, row in wanted.items():
        parameters = sum(p.numel() for p in detectors[name].parameters()) / 1e6
        paper = "  – " if row.paper_ms is None else f"{row.paper_ms / wanted[first].paper_ms:.2f}"
        line = f"{name:23} {parameters:8.2f} M {counts[name] / 1e9:6.1f} {1000 * use[name]:7.1f} ms "
        line += f"{use[name] / use[first]:7.2f}  ({paper}) {100 * counts[name] / use[name] / peak:7.1f} %"
        if training:
            seconds = step_times[name] / setting.batch
            line += f" {1000 * seconds:7.1f} ms {step_times[name] / step_times[first]:6.2f}"
            line += f" {100 * 3 * counts[name] / seconds / peak:7.1f} %"  # backward costs twice the forward
        print(line, flush=True)


def main(
    backbone: str = "vgg19",
    size: int = 256,
    batch: int = 4,
    channels: int = 256,
    head_depth: int = 4,
    head_channels: int = 96,
    stride: int = 8,
    most_images: int = 3,
    device: str = "cpu",
    precision: str = "bf16",
    iterations: int = 5,
    threads: int = 2,
    compiled: bool = False,
    peer: bool = True,
    training: bool = True,
    peak_side: int = 4096,
) -> None:
    """Print all measurements for one setting."""
    torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = 64  # all networks share their code,
    torch._dynamo.config.automatic_dynamic_shapes = False  # and each shape is compiled for itself
    tune_for(device)  # for all contestants
    params = load_params(ROOT / "params.yaml")
    sizes = {"channels": channels, "head_depth": head_depth, "head_channels": head_channels, "stride": stride}
    network = params.network.model_copy(update={"backbone": backbone, "weights": None, "windows": (), **sizes})
    detect = build_settings(params.detect, precision)
    preprocess = params.preprocess.model_copy(update={"slices": 3, "image_size": size})
    settings = (preprocess, detect.decoding.with_nms_iou(0.5), detect.recist_margin_px)
    setting = Setting(size, batch, device, precision, iterations, compiled, *settings)
    peak = matmul_peak(setting, peak_side)
    print(f"{backbone}, {size} px, batch {batch}, {device}, {precision}; matrix product {peak / 1e12:.2f} TFLOP/s")
    if peer and head_depth == 4:  # torchvision's head has four convolutions
        compare(network, setting)
    rows(network, setting, peak, training, all_rows(most_images))


if __name__ == "__main__":
    typer.run(main)
