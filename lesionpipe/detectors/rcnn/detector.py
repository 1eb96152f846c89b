"""Two-stage detectors behind the interface of all detectors: propose regions, then judge each of them.

Faster R-CNN, Mask R-CNN and 3DCE (paper, Table 1) are this class with different parts; `build.py` puts them together.
Masks are only learned from: detection needs none, and one costs as much arithmetic as a hundredth of a whole image.
"""

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, nms, remove_small_boxes

from lesionpipe.anchors.grid import HALF_PIXEL, AnchorSet, anchors_for
from lesionpipe.detectors.interface import DecodingSettings, Detector, Prediction, Share, Targets
from lesionpipe.detectors.rcnn.features import RegionMaps
from lesionpipe.detectors.rcnn.heads import MaskHead, RegionHead, lesion_probability
from lesionpipe.detectors.rcnn.proposals import CODER, ProposalHead, proposal_losses, select_proposals
from lesionpipe.detectors.rcnn.regions import mask_loss_sum, region_losses, sample_regions
from lesionpipe.detectors.rcnn.sampling import image_generators
from lesionpipe.detectors.windows import Windows

TRAINING_CANDIDATES, TRAINING_PROPOSALS = 2000, 2000  # torchvision's; 3DCE lets 12,000 of its one map enter
SMALLEST_PROPOSAL_PX = 8  # of a 512 px slice (3DCE)


class RegionDetector(Detector):
    """A detector in two stages.

    Args:
        windows: images -> the same with HU windows as further channels.
        features: these -> `RegionMaps`.
        proposal_head: first stage.
        region_head: second stage.
        mask_head: a further one that is only trained, or None.
        anchor_set: in px of the stored slice.
        image_size: S, the side of the images that it mostly sees, px.
        sampled_regions: regions of an image that the second stage learns from.
        nms_iou: overlap above which, by the family's own practice, the less certain of two boxes goes.
    """

    def __init__(
        self,
        windows: Windows,
        features: nn.Module,
        proposal_head: ProposalHead,
        region_head: RegionHead,
        mask_head: MaskHead | None,
        anchor_set: AnchorSet,
        image_size: int,
        sampled_regions: int,
        nms_iou: float,
    ) -> None:
        super().__init__()
        self.windows, self.features = windows, features
        self.proposal_head, self.region_head = proposal_head, region_head
        self.mask_head = mask_head
        self.anchor_set, self.image_size = anchor_set, image_size
        self.stride = anchor_set.strides[-1]
        self.sampled_regions, self.nms_iou = sampled_regions, nms_iou
        self.smallest_proposal = SMALLEST_PROPOSAL_PX * image_size / 512
        self.register_buffer("anchors", self._make_anchors(image_size, image_size), persistent=False)  # (A, 4)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # calls of `losses`; seeds the samples
        names = ("objectness", "proposal_box", "classification", "box")
        self.loss_names = (*names, *(("mask",) if mask_head is not None else ()))

    def losses(self, images: Tensor, targets: Targets, share: Share) -> dict[str, Tensor]:
        self._check(images, targets)
        self.step += 1
        generators = image_generators(images, self.step)
        size, anchors = tuple(images.shape[-2:]), self._anchors_of(images)
        lesions = [boxes.to(anchors) + HALF_PIXEL for boxes in targets.boxes]
        mined = [boxes.to(anchors) + HALF_PIXEL for boxes in targets.negatives or [anchors[:0]] * len(images)]
        maps = self._maps(images)
        raw = self.proposal_head(maps.proposing)
        candidates = TRAINING_CANDIDATES, TRAINING_PROPOSALS, self.smallest_proposal
        proposals = select_proposals(raw, anchors, size, *candidates)
        regions = sample_regions(proposals, lesions, mined, self.sampled_regions, generators)
        first = proposal_losses(raw, anchors, lesions, generators)
        second = region_losses(*self.region_head(maps.judging, regions.boxes), regions)
        sums = [*first[:2], *second[:2]]
        counts = [first.count, first.count, second.count, second.count]
        if self.mask_head is not None:
            logits = self.mask_head(maps.judging, regions.of_lesions())
            sums.append(mask_loss_sum(logits, regions, [own.to(images.device) for own in targets.masks]))
            counts.append(len(logits))
        divisors = share(torch.tensor(counts, dtype=torch.float32, device=images.device))
        return dict(zip(self.loss_names, torch.stack(sums) / divisors, strict=True))

    @torch.no_grad()
    def predict(
        self, images: Tensor, settings: DecodingSettings, recist_margin: float | Tensor = 0.0
    ) -> list[Prediction]:
        size, anchors = tuple(images.shape[-2:]), self._anchors_of(images)
        settings = settings.with_nms_iou(self.nms_iou)
        maps = self._maps(images)
        raw = self.proposal_head(maps.proposing)
        limits = settings.topk_candidates, settings.proposals, self.smallest_proposal
        proposals = select_proposals(raw, anchors, size, *limits)
        logits, deltas = self.region_head(maps.judging, proposals)
        boxes = clip_boxes_to_image(CODER.decode_single(deltas, torch.cat(proposals)), size)
        numbers = [len(own) for own in proposals]
        found = zip(boxes.split(numbers), lesion_probability(logits).split(numbers), strict=True)
        return [_best(*own, settings) for own in found]

    def compile(self) -> None:
        """Compile the features alone: the regions' number and place depend on the image."""
        self.features.compile()

    def _maps(self, images: Tensor) -> RegionMaps:
        return self.features(self.windows(images).to(next(self.parameters()).dtype))

    def _make_anchors(self, height: int, width: int) -> Tensor:
        """(A, 4) in the frame where pixel i covers [i, i + 1)."""
        return torch.from_numpy(anchors_for(self.anchor_set, height, width)) + HALF_PIXEL

    def _anchors_of(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height == width == self.image_size:
            return self.anchors
        return self._make_anchors(height, width).to(images.device)

    def _check(self, images: Tensor, targets: Targets) -> None:
        if len(images) != len(targets.boxes):
            raise ValueError(f"{len(images)} images, but the lesions of {len(targets.boxes)}")
        if self.mask_head is not None and targets.masks is None:
            raise ValueError("the network has a mask head but the targets hold no masks")


def _best(boxes: Tensor, scores: Tensor, settings: DecodingSettings) -> Prediction:
    """The boxes (k, 4) of one image that non-maximum suppression leaves, back in the frame of the interface."""
    wanted = remove_small_boxes(boxes, 1e-2)
    wanted = wanted[scores[wanted] >= settings.score_threshold]
    boxes, scores = boxes[wanted], scores[wanted]
    kept = nms(boxes, scores, settings.nms_iou)[: settings.detections_per_image]
    return Prediction(boxes[kept] - HALF_PIXEL, scores[kept], None)
