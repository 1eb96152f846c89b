"""Faster R-CNN, Mask R-CNN and 3DCE as whole detectors: shapes, precision, anchors, images without lesions, sizes."""

from pathlib import Path

import pytest
import torch

from lesionpipe.anchors.grid import anchors_for
from lesionpipe.core.boxes import iou
from lesionpipe.detect.stored_slices import for_inference
from lesionpipe.detectors.backbones import build_backbone
from lesionpipe.detectors.build import build_detector, fixed_anchors
from lesionpipe.detectors.interface import DecodingSettings, Targets, single_process
from lesionpipe.detectors.rcnn.features import ContextMaps, Trunk
from lesionpipe.params import load_params

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")
NETWORK = PARAMS.network
KINDS = ("faster-rcnn", "mask-rcnn", "3dce")
BACKBONES = ("small", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "resnet50", "resnet101")
DECODING = DecodingSettings(0.0, 1000, 0.5, 20, calibrate=True, mask_threshold=0.5, proposals=50)
LOSSES = ("objectness", "proposal_box", "classification", "box")
SIDE = 64


def detector_of(kind, slices=3, image_size=SIDE, **changes):
    """A detector with random weights."""
    torch.manual_seed(0)
    small = {"backbone": "small", "weights": None, "channels": 16, "head_channels": 16}
    params = NETWORK.model_copy(update={"kind": kind, **small, **changes})
    preprocess = PARAMS.preprocess.model_copy(update={"slices": slices, "image_size": image_size})
    return build_detector(params, preprocess, fixed_anchors(params, image_size))


def images_of(count, slices=3, side=SIDE):
    return torch.rand(count, slices, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def targets_of(*counts):
    """As many discs' boxes and masks in each image."""
    boxes = torch.tensor([[8.0, 10, 27, 30], [36, 33, 55, 60]])
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    masks[0, 12:28, 10:26] = masks[1, 35:58, 38:54] = 1
    return Targets([boxes[:n] for n in counts], [masks[:n] for n in counts])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_every_kind_answers_with_boxes_inside_the_image_best_first(kind, precision):
    detector = for_inference(detector_of(kind, slices=9), precision)
    found = detector.predict(images_of(2, slices=9), DECODING)
    assert len(found) == 2
    for boxes, scores, mask in found:
        assert boxes.shape == (20, 4) and scores.shape == (20,) and mask is None
        assert boxes.dtype == scores.dtype == torch.float32
        assert (scores.diff() <= 0).all() and 0 < float(scores[0]) < 1
        assert boxes.min() >= -0.5 and boxes.max() <= SIDE - 0.5
        assert (boxes[:, 2:] > boxes[:, :2]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [96, 57])
def test_images_of_other_sizes_are_seen_too(kind, side):
    detector = detector_of(kind).eval()
    (found,) = detector.predict(images_of(1, side=side), DECODING)
    assert found.boxes.max() > SIDE / 2 and found.boxes.max() <= side - 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(0, 0), (2, 0), (1, 2)])
@pytest.mark.parametrize("bf16", [False, True])
def test_every_weight_learns_whether_or_not_there_are_lesions(kind, counts, bf16):
    """A weight without a gradient would stop processes that train together."""
    detector = detector_of(kind).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses = detector.losses(images_of(2), targets_of(*counts), single_process)
    assert tuple(losses) == detector.loss_names == LOSSES + (("mask",) if kind == "mask-rcnn" else ())
    assert all(loss.dtype == torch.float32 and loss.shape == () and loss.isfinite() for loss in losses.values())
    assert (losses["proposal_box"] > 0) == (sum(counts) > 0)
    sum(losses.values()).backward()
    assert [name for name, value in detector.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_sums_divided_by_what_all_processes_have(kind):
    """Two images together, or each in a process of its own: the same gradients, whatever is drawn at random."""
    images, targets = images_of(2), targets_of(2, 1)
    counts = []
    for image in range(2):
        own = Targets(targets.boxes[image : image + 1], targets.masks[image : image + 1])
        detector_of(kind).eval().losses(images[image : image + 1], own, lambda n: counts.append(n) or n)
    total = counts[0] + counts[1]
    whole = detector_of(kind).eval().losses(images, targets, single_process)
    parts = []
    for image in range(2):
        own = Targets(targets.boxes[image : image + 1], targets.masks[image : image + 1])
        parts.append(detector_of(kind).eval().losses(images[image : image + 1], own, lambda n: total / 2))
    for name, value in whole.items():
        # a batch of another size rounds otherwise, and of proposals that are nearly equal another may be the better one
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, value, rtol=5e-3, atol=1e-4)


def test_a_mask_head_asks_for_masks():
    with pytest.raises(ValueError, match="no masks"):
        detector_of("mask-rcnn").losses(images_of(1), Targets([torch.zeros(0, 4)], None), single_process)
    with pytest.raises(ValueError, match="2 images, but the lesions of 1"):
        detector_of("faster-rcnn").losses(images_of(2), Targets([torch.zeros(0, 4)], None), single_process)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_detector_learns_one_image_by_heart(kind):
    detector, images, targets = detector_of(kind, stride=8).train(), images_of(1) * 0.1, targets_of(1)
    images[0, :, 13:27, 11:25] += 0.7
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # to know this very image
    optimiser = torch.optim.Adam(detector.parameters(), 2e-3)
    for _ in range(50):
        losses = detector.losses(images, targets, single_process)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10)
        optimiser.step()
    best = detector.eval().predict(images, DECODING)[0]
    assert float(best.scores[0]) > 0.5
    assert float(iou(best.boxes[0], targets.boxes[0][0])) > 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_coordinates_are_exact_to_a_tenth_of_a_px_in_bf16(kind):
    """bfloat16 has steps of 2 px beyond 256 px. All anchors are one box, which nothing moves."""
    detector = detector_of(kind, image_size=512, stride=8)
    box = torch.tensor([401.3, 299.9, 417.4, 320.6])
    detector.anchors[:] = box + 0.5  # counted from the corner of the image
    for layer in (detector.proposal_head.deltas, detector.region_head.deltas):
        torch.nn.init.zeros_(layer.weight)
    (found,) = for_inference(detector, "bf16").predict(images_of(1, side=512), DECODING)
    assert len(found.boxes) == 1
    torch.testing.assert_close(found.boxes[0], box, rtol=0, atol=0.1)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("stride", [4, 8, 16])
def test_a_trunk_keeps_the_side_once_it_has_its_stride(backbone, stride):
    trunk = Trunk(build_backbone(backbone, None, 3), stride).eval()
    with torch.no_grad():
        features = trunk(images_of(1))
    assert features.shape == (1, trunk.channels, SIDE // stride, SIDE // stride)
    assert trunk.channels == (128 if backbone == "small" else 512)


def test_vgg_at_stride_8_is_torchvisions_without_its_last_two_poolings():
    backbone = build_backbone("vgg16", None, 3)
    convolutions = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    trunk = Trunk(backbone, 8)
    assert sum(isinstance(m, torch.nn.MaxPool2d) for m in trunk.modules()) == 3
    assert [m for m in trunk.modules() if isinstance(m, torch.nn.Conv2d)] == convolutions
    assert sum(p.numel() for p in trunk.parameters()) == 14_714_688  # as that of 3DCE


def test_3dce_looks_at_disjoint_triples_and_proposes_on_the_middle_one():
    """A trunk that keeps one slice's mean: maps of image q come from slices 3 q … 3 q + 2 alone."""
    features = ContextMaps(Trunk(build_backbone("small", None, 3), 8), count=3, bins=7, depth=10).eval()
    images = images_of(2, slices=9)
    changed = images.clone()
    changed[:, 7] += 1  # of the last triple
    with torch.no_grad():
        before, after, alone = features(images), features(changed), features.trunk(images[:, 3:6])
    assert before.judging[0].shape == (2, 3 * 490, 8, 8)
    torch.testing.assert_close(before.proposing[0], alone)
    same = (before.judging[0] == after.judging[0]).all(dim=(0, 2, 3))
    assert same[:980].all() and not same[980:].any()


def test_each_image_of_3dce_gets_its_own_slices_windows():
    """Nine slices, then the nine in a window: image q sees slices 3 q … 3 q + 2 of either."""
    features = ContextMaps(Trunk(build_backbone("small", None, 6), 8), count=3, bins=7, depth=10).eval()
    images = images_of(1, slices=18)
    with torch.no_grad():
        alone = features.trunk(torch.cat([images[:, 3:6], images[:, 12:15]], dim=1))
        torch.testing.assert_close(features(images).proposing[0], alone)


@pytest.mark.parametrize(("slices", "images"), [(3, 1), (9, 3), (15, 5)])
def test_3dce_takes_any_odd_number_of_images(slices, images):
    detector = detector_of("3dce", slices=slices)
    assert detector.region_head.layers[0].in_features == 490 * images
    assert len(detector.eval().predict(images_of(1, slices), DECODING)) == 1


@pytest.mark.parametrize(("kind", "megas"), [("faster-rcnn", 71.52), ("3dce", 17.20)])
def test_with_vgg_the_parameters_are_those_of_the_published_networks(kind, megas):
    """Up to the background's own box deltas (8 instead of 4) and a two-way objectness (30 instead of 15 outputs)."""
    detector = detector_of(kind, backbone="vgg16", head_channels=256, stride=8, windows=())
    assert sum(p.numel() for p in detector.parameters()) / 1e6 == pytest.approx(megas, abs=0.02)


@pytest.mark.parametrize(("size", "factor"), [(512, 1), (256, 0.5)])
def test_anchors_of_a_trunk_scale_with_the_slice_those_of_a_pyramid_with_its_strides(size, factor):
    for kind, per_cell, sides in (("faster-rcnn", 15, (16 * factor, 96 * factor)), ("mask-rcnn", 6, (8, 256))):
        anchors = fixed_anchors(NETWORK.model_copy(update={"kind": kind, "stride": 8}), size)
        boxes = torch.from_numpy(anchors_for(anchors, size, size))
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        assert anchors.per_cell == per_cell
        assert (float(side.min()), float(side.max())) == pytest.approx(sides)
    assert fixed_anchors(NETWORK.model_copy(update={"kind": "retinanet"}), size) is None
