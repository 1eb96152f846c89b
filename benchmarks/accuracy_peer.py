"""How well torchvision's RetinaNet does on the same data: the accuracy peer of row `p2` (P2–P6, no masks, no gates).

Both have the same slices, windows, augmentation, order of the slices, batches, optimiser, schedule, seeds, backbone,
levels, channels and anchors (sizes, scales and ratios of data/anchors.json), and are scored by the same FROC.
torchvision's own are the pyramid's arithmetic, where anchors lie (half a stride further up and left), matching, box
code, losses, the first weights of pyramid and heads, and the heads themselves: its API fixes them at four convolutions
as wide as the pyramid. Ours with such heads: `--set network.head_depth=4 --set network.head_channels=64`. Ours detects
in the precision of `detect.precision`, torchvision's in float32.

    python benchmarks/accuracy_peer.py --seeds 3 --epochs 8 --against p2-train.epochs=8

Run it in a checkout whose data stages are done, data/anchors.json with the `network.levels` of params.yaml. A seed
whose detections lie in scratch/accuracy_peer (a folder for each set of parameters; delete it after a change of code) is
not trained again; an interrupted one goes on after its last epoch.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated

import torch
import torchvision
import typer
from torch import Tensor, nn
from torchvision_retinanet import torchvision_network

from lesionpipe.anchors.grid import AnchorSet, read_anchors
from lesionpipe.commands.ablation_table import SPLIT, ablation_table, score_rows
from lesionpipe.core import errors
from lesionpipe.core.files import scratch_folder
from lesionpipe.core.formats import write_csv
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.detect.stored_slices import build_settings, detect_slices
from lesionpipe.detectors.checkpoint import Model
from lesionpipe.detectors.interface import DecodingSettings, Detector, Float32Conv2d, Prediction, Share, Targets
from lesionpipe.detectors.retinanet.detector import NMS_IOU
from lesionpipe.detectors.windows import Windows
from lesionpipe.params import Params, load_params
from lesionpipe.train import history
from lesionpipe.train.build import ANCHORS_FILE, build_training
from lesionpipe.train.loop import Training, train_detector
from lesionpipe.train.processes import training_processes
from lesionpipe.train.state import clear_state
from lesionpipe.train.validation import VALIDATION

PEER = "torchvision"


class PeerDetector(Detector):
    """torchvision's RetinaNet behind the interface of all detectors, in one process."""

    def __init__(self, params: Params, anchors: AnchorSet) -> None:
        super().__init__()
        preprocess, network = params.preprocess, params.network
        channels = preprocess.slices * (1 + len(network.windows))
        self.windows = Windows(network.windows, preprocess.hu)
        self.network = torchvision_network(
            network, anchors, VALIDATION.with_nms_iou(NMS_IOU), preprocess.image_size, channels=channels
        )
        for head, name in zip(self.network.head.children(), ("cls_logits", "bbox_reg"), strict=True):
            setattr(head, name, _predicting(getattr(head, name)))
        self.network.head.register_forward_hook(_in_float32)
        self.loss_names = ("classification", "box")

    def losses(self, images: Tensor, targets: Targets, share: Share) -> dict[str, Tensor]:
        boxes = [own.to(images.device) for own in targets.boxes]
        labels = [torch.zeros(len(own), dtype=torch.int64, device=images.device) for own in boxes]
        wanted = [{"boxes": own, "labels": label} for own, label in zip(boxes, labels, strict=True)]
        return dict(zip(self.loss_names, self.network(list(self.windows(images)), wanted).values(), strict=True))

    @torch.no_grad()
    def predict(
        self, images: Tensor, settings: DecodingSettings, recist_margin: float | Tensor = 0.0
    ) -> list[Prediction]:
        network = self.network
        network.score_thresh, network.topk_candidates = settings.score_threshold, settings.topk_candidates
        network.nms_thresh = settings.with_nms_iou(NMS_IOU).nms_iou
        network.detections_per_img = settings.detections_per_image
        found = network(list(self.windows(images)))
        return [Prediction(one["boxes"].float(), one["scores"].float(), None) for one in found]


def _predicting(layer: nn.Conv2d) -> Float32Conv2d:
    """The same layer, known as one that predicts: Adam moves it, as ours, where Muon moves hidden kernels."""
    own = Float32Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding)
    own.weight, own.bias = layer.weight, layer.bias
    return own


def _in_float32(_head: nn.Module, _levels: tuple, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses and decoding of bf16 training in float32, as ours."""
    return {name: output.float() for name, output in outputs.items()}


def peer_training(params: Params) -> Training:
    """Our training of the same parameters with torchvision's network in it, and a state of its own."""
    if params.network.kind != "retinanet":
        raise errors.UserError(f"network.kind = {params.network.kind}: the peer is one of retinanet")
    ours = build_training(
        params.dataset.parts, params.lesions.noisy, params.preprocess, params.network, params.train, params.runtime
    )
    if ours.hardware.processes > 1:
        raise errors.UserError("runtime.devices, runtime.nodes: the peer trains in one process")
    torch.manual_seed(params.train.seed)
    folder = ours.state_folder.with_name(f"{ours.state_folder.name}-{PEER}-{torchvision.__version__}")
    return dataclasses.replace(ours, detector=PeerDetector(params, ours.anchors), state_folder=folder)


def run_seed(params: Params, folder: Path) -> Path:
    """The detections of one training, made where they aren't there yet."""
    detections = folder / f"seed{params.train.seed}" / "detections.csv"
    if detections.is_file():
        print(f"{detections}: there already, not trained again", flush=True)
        return detections
    history.HISTORY_FILE = detections.with_name("train.csv")  # not those of the pipeline
    history.TIMES_FILE = detections.with_name("times.csv")
    training = peer_training(params)
    with training_processes(training.hardware, training.state_folder) as fabric:
        train_detector(fabric, training).write()
        images = params.preprocess
        of_images = images.slices, images.image_size, images.hu
        model = Model(training.detector.eval(), training.anchors, *of_images, training.parameters)
        store = SliceStore.open(parts=params.dataset.parts).select([SPLIT])
        found = detect_slices(model, store, build_settings(params.detect, "32"), training.hardware)
        write_csv(detections, found.table)
        clear_state(training.state_folder)
    return detections


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings, train.seed 0, 1, …")] = 3,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of train.epochs.")] = None,
    against: Annotated[str | None, typer.Option(help="A row of `lesionpipe ablation` to compare with.")] = None,
) -> None:
    """Train torchvision's RetinaNet on the stored slices and print its row of the table."""
    params = load_params()
    network = params.network.model_copy(update={"mask_branch": False, "attention": False})
    train = params.train.model_copy(update={"epochs": epochs or params.train.epochs})
    params = params.model_copy(update={"network": network, "train": train})
    about = (
        params.model_dump(mode="json", exclude={"runtime", "evaluate", "detect"}) | read_anchors(ANCHORS_FILE).to_dict()
    )
    text = json.dumps([about, torchvision.__version__], sort_keys=True)
    folder = scratch_folder() / "accuracy_peer" / hashlib.sha256(text.encode()).hexdigest()[:12]
    finished = {PEER: {}}
    for seed in range(seeds):
        seeded = params.model_copy(update={"train": train.model_copy(update={"seed": seed})})
        finished[PEER][seed] = str(run_seed(seeded, folder))
    if against:
        finished[against] = {seed: f"{against}-seed{seed}" if seed else against for seed in range(seeds)}
    print(ablation_table(score_rows({PEER: None} | ({against: PEER} if against else {}), finished, params)))


if __name__ == "__main__":
    errors.run(lambda: typer.run(main))
