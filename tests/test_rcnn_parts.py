"""The parts of the two-stage detectors: worked out by hand, or equal to torchvision's where that is right."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from lesionpipe.detectors.rcnn import regions as region_module
from lesionpipe.detectors.rcnn.heads import RegionHead
from lesionpipe.detectors.rcnn.pooling import AlignedPool, SensitivePool
from lesionpipe.detectors.rcnn.proposals import PROPOSAL_NMS_IOU, ProposalHead, proposal_losses, select_proposals
from lesionpipe.detectors.rcnn.regions import Regions, mask_loss_sum, region_losses, sample_regions
from lesionpipe.detectors.rcnn.sampling import BACKGROUND, LESION, MINED, NEITHER, draw_sample, image_generators

SIDE = 64
LESIONS = [torch.tensor([[10.0, 12, 30, 40], [40, 40, 56, 52]]), torch.zeros(0, 4)]
NONE = [torch.zeros(0, 4)] * 2


def generators(count=2):
    return [torch.Generator().manual_seed(i) for i in range(count)]


@pytest.fixture
def proposal_pair():
    """Our first stage and torchvision's with the same weights, maps of two levels, and torchvision's anchors."""
    torch.manual_seed(0)
    head = ProposalHead(8, 8, per_cell=3)
    for layer in (head.objectness, head.deltas):
        torch.nn.init.normal_(layer.weight, std=0.3)
    generator = AnchorGenerator(((16,), (32,)), ((0.5, 1.0, 2.0),) * 2)
    maps = [torch.randn(2, 8, SIDE // 4, SIDE // 4), torch.randn(2, 8, SIDE // 8, SIDE // 8)]
    images = ImageList(torch.zeros(2, 3, SIDE, SIDE), [(SIDE, SIDE)] * 2)
    limits = {"training": 100, "testing": 100}, {"training": 20, "testing": 20}
    network = RegionProposalNetwork(generator, _TorchvisionHead(head), 0.7, 0.3, 32, 0.5, *limits, PROPOSAL_NMS_IOU)
    return head, network, maps, images, generator(images, maps)[0]


class _TorchvisionHead(torch.nn.Module):
    """Our layers in the form that torchvision's network asks for."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, maps):
        hidden = [F.relu(self.head.hidden(features)) for features in maps]
        return [self.head.objectness(h) for h in hidden], [self.head.deltas(h) for h in hidden]


def test_proposals_are_torchvisions(proposal_pair):
    head, network, maps, images, anchors = proposal_pair
    wanted, _ = network.eval()(images, dict(enumerate(maps)))
    found = select_proposals(head(maps), anchors, (SIDE, SIDE), candidates=100, count=20, min_side=1e-3)
    for own, other in zip(found, wanted, strict=True):
        assert len(own) == 20
        torch.testing.assert_close(own, other)


def test_losses_of_the_first_stage_are_torchvisions(proposal_pair):
    head, network, maps, images, anchors = proposal_pair
    network.fg_bg_sampler = _OurSampler()
    _, wanted = network.train()(images, dict(enumerate(maps)), [{"boxes": boxes} for boxes in LESIONS])
    sums = proposal_losses(head(maps), anchors, LESIONS, generators())
    assert sums.count == 64  # 32 of each image
    torch.testing.assert_close(sums.classification / sums.count, wanted["loss_objectness"])
    torch.testing.assert_close(sums.box / sums.count, wanted["loss_rpn_box_reg"])
    assert sums.box > 0


class _OurSampler:
    """In torchvision's place, with the same random numbers: the anchors of our sample as its two masks."""

    def __call__(self, labels):
        masks = []
        for own, generator in zip(labels, generators(), strict=True):
            chosen = torch.zeros_like(own, dtype=torch.bool)
            chosen[draw_sample(own.long(), 32, 0.5, generator)] = True
            masks.append((chosen & (own == LESION), chosen & (own == BACKGROUND)))
        return tuple(zip(*masks, strict=True))


def test_each_lesion_is_learned_by_its_best_anchor_however_small_their_overlap():
    anchors = torch.tensor([[0.0, 0, 32, 32], [16, 0, 48, 32]])
    raw = type("Raw", (), {"objectness": torch.zeros(1, 2), "deltas": torch.zeros(1, 2, 4)})
    sums = proposal_losses(raw, anchors, [torch.tensor([[0.0, 0, 8, 8]])], generators(1))
    assert sums.count == 2
    assert float(sums.classification) == pytest.approx(2 * math.log(2))
    # centre 12 px left and above of an anchor of 32 px, a quarter of its sides; smooth L1 beyond 1/9: |x| - 1/18
    expected = 2 * (12 / 32 - 1 / 18) + 2 * (math.log(4) - 1 / 18)
    assert float(sums.box) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def second_stage():
    torch.manual_seed(1)
    corners = torch.rand(2, 40, 2) * 40
    proposals = [torch.cat([own, own + 4 + torch.rand(40, 2) * 20], dim=1) for own in corners]
    proposals[0][:4] = LESIONS[0][[0, 0, 1, 1]] + torch.tensor([1.0, -1, 2, 1])
    return proposals


def test_regions_and_their_targets_are_torchvisions_where_nothing_is_left_out(second_stage):
    heads = RoIHeads(None, None, None, 0.5, 0.5, 1000, 1.0, (1.0, 1.0, 1.0, 1.0), 0.0, 0.5, 100)
    targets = [{"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)} for boxes in LESIONS]
    boxes, numbers, labels, deltas = heads.select_training_samples(list(second_stage), targets)
    found = sample_regions(second_stage, LESIONS, NONE, 1000, generators())
    assert list(map(len, found.boxes)) == list(map(len, boxes)) == [42, 40]
    own, label, number = found.labels == LESION, torch.cat(labels), torch.cat(numbers)
    rows = torch.cat([torch.cat(found.of_lesions()), found.deltas[own], torch.cat(found.lesions)[:, None]], dim=1)
    wanted = torch.cat([torch.cat(boxes), torch.cat(deltas), number[:, None]], dim=1)[label == LESION]
    assert len(rows) >= 6  # the lesions themselves, and four regions near them
    torch.testing.assert_close(_sorted(rows), _sorted(wanted))
    torch.testing.assert_close(_sorted(torch.cat(found.boxes)[~own]), _sorted(torch.cat(boxes)[label == BACKGROUND]))


def _sorted(rows):
    """Rows in an order that doesn't depend on how they came."""
    return torch.tensor(sorted(rows.tolist()))


def test_losses_of_the_second_stage_are_torchvisions_with_its_constants(second_stage, monkeypatch):
    monkeypatch.setattr(region_module, "REGION_BETA", 1 / 9)
    monkeypatch.setattr(region_module, "REGION_BOX_WEIGHT", 1.0)
    found = sample_regions(second_stage, LESIONS, NONE, 16, generators())
    logits, deltas = torch.randn(32, 2), torch.randn(32, 4)
    by_class = torch.stack([torch.randn(32, 4), deltas], dim=1).flatten(1)  # torchvision predicts boxes for each class
    classification, box = fastrcnn_loss(logits, by_class, [found.labels], [found.deltas])
    sums = region_losses(logits, deltas, found)
    torch.testing.assert_close(sums.classification / sums.count, classification)
    torch.testing.assert_close(sums.box / sums.count, box)


def test_the_box_loss_is_ten_times_smooth_l1_of_unscaled_deltas():
    found = Regions([torch.zeros(2, 4)], torch.tensor([LESION, BACKGROUND]), torch.zeros(2, 4), [torch.tensor([0])])
    deltas = torch.tensor([[0.5, 2, 0, 0], [9, 9, 9, 9]])
    sums = region_losses(torch.zeros(2, 2), deltas, found)
    assert float(sums.box) == pytest.approx(10 * (0.5 * 0.5**2 + (2 - 0.5)))
    assert float(sums.classification) == pytest.approx(2 * math.log(2))


def test_the_mask_loss_is_torchvisions_shifted_by_the_half_pixel_that_it_is_off():
    """torchvision takes 0 for the centre of the first pixel, but lets the image reach from 0 to its side."""
    torch.manual_seed(2)
    masks = (torch.rand(2, SIDE, SIDE) > 0.5).byte()
    boxes = torch.tensor([[10.0, 12, 31, 37], [38, 41, 55, 52], [9, 11, 30, 41]])
    lesions = torch.tensor([0, 1, 0])
    logits = torch.randn(3, 1, 28, 28)
    first = torch.zeros(2, dtype=torch.int64)  # one class: its number is 0
    wanted = maskrcnn_loss(logits, [boxes - 0.5], [masks], [first], [lesions])
    found = Regions([boxes], torch.full((3,), LESION), torch.zeros(3, 4), [lesions])
    torch.testing.assert_close(mask_loss_sum(logits[:, 0], found, [masks]) / 3, wanted)


def test_an_aligned_pool_gives_the_places_of_its_bins():
    """On a map that holds the x of its cells' centres, bin j of a box is the x of the bin's centre."""
    stride, bins = 8, 7
    x = (torch.arange(SIDE // stride) + 0.5) * stride
    features = x.repeat(1, 1, SIDE // stride, 1)
    pooled = AlignedPool(bins, [stride], 1.0)([features], [torch.tensor([[12.0, 10, 47, 45]])])
    assert pooled.shape == (1, 1, bins, bins)
    torch.testing.assert_close(pooled[0, 0], (12 + (torch.arange(bins) + 0.5) * 5).expand(bins, bins))


def test_an_aligned_pool_takes_each_region_from_its_level_of_the_pyramid():
    """224 px belong to P4, half of it to P3; all below 112 px to P2, and all above 448 px to P5, at 512 px."""
    pool = AlignedPool(7, [4, 8, 16, 32], 1.0)
    sides = torch.tensor([10.0, 111, 113, 223, 225, 447, 449, 500])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert pool.levels(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert AlignedPool(7, [4, 8, 16, 32], 0.5).levels(boxes / 2).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    maps = [torch.full((1, 1, 64, 64), float(level)) for level in range(4)]
    assert pool(maps, [boxes])[:, 0, 3, 3].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_position_sensitive_pooling_by_hand():
    """2 x 2 bins of one output channel on four maps: bin (i, j) is the mean of map 2 i + j over that quarter.

    At stride 4, a box from 8 to 24 px reaches from cell 2 to 6. Where maps grow by 1 per cell in x, the left bins'
    mean place is 3 - 0.5 in cells' centres, the right bins' 5 - 0.5; map k adds 100 k.
    """
    ramp = torch.arange(8.0).expand(8, 8)
    maps = torch.stack([ramp + 100 * k for k in range(4)])[None]
    pooled = SensitivePool(2, 4)([maps], [torch.tensor([[8.0, 8, 24, 24]])])
    torch.testing.assert_close(pooled, torch.tensor([[[[2.5, 104.5], [202.5, 304.5]]]]))


def test_a_sample_has_lesions_then_mined_then_background():
    labels = torch.tensor([LESION] * 3 + [MINED] * 9 + [BACKGROUND] * 50 + [NEITHER] * 50)
    sample = draw_sample(labels, 16, 0.25, torch.Generator().manual_seed(0))
    assert labels[sample].tolist() == [LESION] * 3 + [MINED] * 6 + [BACKGROUND] * 7
    many = torch.tensor([LESION] * 30 + [BACKGROUND] * 5)
    few = draw_sample(many, 16, 0.25, torch.Generator().manual_seed(0))
    assert many[few].tolist() == [LESION] * 4 + [BACKGROUND] * 5


def test_an_images_random_numbers_depend_on_its_pixels_and_the_step_alone():
    images = torch.rand(3, 3, 8, 8) * 2 - 1

    def numbers(batch, step):
        return [float(torch.rand(1, generator=g)) for g in image_generators(batch, torch.tensor(step))]

    whole = numbers(images, 5)
    assert len(set(whole)) == 3
    assert numbers(images.flip(0), 5) == whole[::-1]
    assert numbers(images[1:].contiguous(memory_format=torch.channels_last), 5) == whole[1:]
    assert not set(numbers(images, 6)) & set(whole)


def test_mined_boxes_are_background_or_a_class_of_their_own():
    lesions, mined = [torch.tensor([[0.0, 0, 10, 10]])], [torch.tensor([[30.0, 30, 40, 40]])]
    proposals = [torch.tensor([[1.0, 1, 10, 10], [30, 30, 40, 41], [50, 50, 60, 60]])]
    found = sample_regions(proposals, lesions, mined, 32, generators(1))
    assert sorted(found.labels.tolist()) == [BACKGROUND, LESION, LESION, MINED, MINED]
    certain = torch.full((5, 2), -20.0)
    certain[torch.arange(5), (found.labels == LESION).long()] = 20.0
    assert float(region_losses(certain, found.deltas, found).classification) < 1e-6
    certain = 40.0 * F.one_hot(found.labels, 3)
    assert float(region_losses(certain, found.deltas, found).classification) < 1e-6


def test_the_decoded_box_is_the_encoded_one():
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    regions = sample_regions([LESIONS[0] + 2], LESIONS[:1], NONE[:1], 8, generators(1))
    back = coder.decode_single(regions.deltas, regions.boxes[0])
    torch.testing.assert_close(back, LESIONS[0][regions.lesions[0]])


@pytest.mark.parametrize("classes", [2, 3])
def test_a_region_head_answers_for_every_region_of_any_image(classes):
    head = RegionHead(AlignedPool(7, [8], 1.0), 4 * 49, 16, 2, 0.5, classes).eval()
    logits, deltas = head([torch.zeros(2, 4, 8, 8)], [LESIONS[0], LESIONS[1]])
    assert logits.shape == (2, classes) and deltas.shape == (2, 4)
    assert head([torch.zeros(2, 4, 8, 8)], NONE)[0].shape == (0, classes)
