"""Samples, their labels and their order."""

import numpy as np
import pandas as pd
import pytest
import torch
from toy_set import SIDE, write_toy_set

from lesionpipe.core.devices import Hardware
from lesionpipe.data.masks import MaskStore
from lesionpipe.data.samples import collate, loader
from lesionpipe.data.stored.schema import BOX, RECIST
from lesionpipe.data.stored.slices import SliceStore, to_stored
from lesionpipe.train import dataset as train_dataset
from lesionpipe.train.dataset import AugmentationRanges, EpochSampler, LesionDataset, lesions_of_slices

STILL = AugmentationRanges(flip=0.0, rotation_rad=0.0, shear_rad=0.0, scale=0.0, translation=0.0)
PAPER = AugmentationRanges(flip=0.5, rotation_rad=0.1, shear_rad=0.1, scale=0.1, translation=0.1)


def dataset(folder, with_masks=True, lesions=None, ranges=PAPER, seed=0):
    write_toy_set(folder)
    slices = SliceStore.open(folder / "data/slices", ["01"]).select(["train"])
    table = pd.read_csv(folder / "data/lesions.csv", dtype={"part": str}) if lesions is None else lesions
    masks = MaskStore.open(folder / "data/masks", ["01"])
    return LesionDataset(slices, table, masks, ranges, seed, air=-1024, with_masks=with_masks)


def test_a_plain_sample_is_as_stored(tmp_path):
    data = dataset(tmp_path)
    sample = data[3]
    assert sample.key == "000004_01_01_010.png" and len(data) == 12
    np.testing.assert_array_equal(sample.hu, data.slices.slices(3))
    assert sample.boxes.dtype == np.float32 and sample.boxes.shape == (1, 4)
    assert sample.masks.dtype == np.uint8 and sample.masks.shape == (1, SIDE, SIDE)
    y, x = np.nonzero(sample.masks[0])
    np.testing.assert_array_equal(sample.boxes[0], [x.min() - 5, y.min() - 5, x.max() + 5, y.max() + 5])


def test_augmentation_without_any_range_changes_nothing(tmp_path):
    data = dataset(tmp_path, ranges=STILL)
    for plain, moved in ((data[i], data[2, i]) for i in range(4)):
        for a, b in zip(plain, moved, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_sample_depends_on_seed_epoch_and_index_alone(tmp_path):
    data = dataset(tmp_path)
    first = data[1, 5]
    assert data[0, 2].key != first.key  # other samples in between
    np.testing.assert_array_equal(data[1, 5].hu, first.hu)
    np.testing.assert_array_equal(data[1, 5].boxes, first.boxes)
    assert not np.array_equal(data[2, 5].hu, first.hu)
    assert not np.array_equal(dataset(tmp_path, seed=1)[1, 5].hu, first.hu)


def test_box_follows_its_mask_with_the_margin(tmp_path):
    data = dataset(tmp_path)
    for index in range(12):
        sample = data[0, index]
        if len(sample.boxes) == 0:
            continue
        y, x = np.nonzero(sample.masks[0])
        if x.min() > 0 and y.min() > 0 and x.max() < SIDE - 1 and y.max() < SIDE - 1:
            reach = np.array([x.min(), y.min(), x.max(), y.max()]) - sample.boxes[0]
            np.testing.assert_allclose(np.clip(reach, -6, 6), [5, 5, -5, -5], atol=2)


def test_a_crop_is_a_part_of_the_augmented_slice_with_its_boxes_and_masks(tmp_path):
    flips = STILL._replace(flip=0.5)  # exact, wherever the crop lies
    whole, cropped = dataset(tmp_path, ranges=flips), dataset(tmp_path, ranges=flips._replace(crop_px=SIDE // 2))
    for index in range(12):
        full, part = whole[0, index], cropped[0, index]
        assert part.hu.shape == (len(full.hu), SIDE // 2, SIDE // 2)
        windows = np.lib.stride_tricks.sliding_window_view(full.hu[0], part.hu.shape[1:])
        (y, x), *_ = np.argwhere((windows == part.hu[0]).all(axis=(2, 3)))
        shifted = np.clip(full.boxes - [x, y, x, y], -0.5, SIDE // 2 - 0.5)
        np.testing.assert_allclose(part.boxes, shifted, atol=1e-4)
        np.testing.assert_array_equal(part.masks, full.masks[:, y : y + SIDE // 2, x : x + SIDE // 2])


@pytest.mark.parametrize("with_masks", [True, False])
def test_a_lesion_without_recist_points_takes_the_outline_of_its_mask(tmp_path, with_masks):
    full = dataset(tmp_path, ranges=PAPER._replace(flip=1.0), with_masks=with_masks)
    table = pd.read_csv(tmp_path / "data/lesions.csv", dtype={"part": str})
    bare = dataset(
        tmp_path,
        ranges=PAPER._replace(flip=1.0),
        with_masks=with_masks,
        lesions=table.assign(**dict.fromkeys(RECIST, np.nan)),
    )
    for index in range(4):  # a disc: its four ends and its outline say nearly the same
        np.testing.assert_allclose(bare[0, index].boxes, full[0, index].boxes, atol=0.6)


def test_each_lesion_has_its_own_mask_in_the_order_of_the_boxes(tmp_path):
    table = (dataset(tmp_path), pd.read_csv(tmp_path / "data/lesions.csv", dtype={"part": str}))[1]
    first, second = table.iloc[[4]], table.iloc[[4]].assign(lesion=99)
    data = dataset(tmp_path, lesions=pd.concat([second, first]))  # lesion 99 has no mask in the store
    for sample in (data[4], dataset(tmp_path, lesions=pd.concat([second, first]), ranges=STILL)[0, 4]):
        assert sample.masks.shape == (2, SIDE, SIDE) and not sample.masks[0].any()
        y, x = np.nonzero(sample.masks[1])
        np.testing.assert_array_equal(sample.boxes[1], [x.min() - 5, y.min() - 5, x.max() + 5, y.max() + 5])
    batch = collate([data[3], data[4]])
    assert batch.counts == [0, 2] and batch.masks.shape == (2, SIDE, SIDE) and batch.masks.dtype == torch.uint8


def test_a_lesion_whose_centre_leaves_the_image_is_dropped_with_its_mask(tmp_path):
    data = dataset(tmp_path, ranges=STILL._replace(translation=1.0))
    samples = [data[epoch, index] for epoch in range(3) for index in range(12)]
    counts = {len(sample.boxes) for sample in samples}
    assert counts == {0, 1} and all(len(sample.masks) == len(sample.boxes) for sample in samples)


def test_slices_without_lesions_and_with_two(tmp_path):
    table = (dataset(tmp_path), pd.read_csv(tmp_path / "data/lesions.csv", dtype={"part": str}))[1]
    second = table.iloc[[4]].assign(lesion=99, file_name=table["file_name"][5])
    data = dataset(tmp_path, lesions=pd.concat([table.drop(index=4), second]), with_masks=False)
    assert [len(data[i].boxes) for i in (3, 4, 5)] == [1, 0, 2]
    assert data[0, 4].boxes.shape == (0, 4)
    batch = collate([data[i] for i in (3, 4, 5)])
    assert batch.counts == [1, 0, 2] and batch.boxes.shape == (3, 4) and batch.masks is None
    assert batch.hu.shape == (3, 3, SIDE, SIDE) and batch.hu.dtype == torch.int16


def test_lesions_are_scaled_to_the_stored_slice():
    index = pd.DataFrame({"file_name": ["a.png", "b.png"], "scale_x": [0.5, 1.0], "scale_y": [0.25, 1.0]})
    row = {
        "lesion": 7,
        "file_name": "a.png",
        "x1_original_px": 9.5,
        "y1_original_px": 19.5,
        "x2_original_px": 29.5,
        "y2_original_px": 39.5,
    } | dict.fromkeys(RECIST, 19.5)
    first, none = lesions_of_slices(index, pd.DataFrame([row]))
    np.testing.assert_array_equal(first.boxes, [[4.5, 4.5, 14.5, 9.5]])  # (x + 0.5) scale - 0.5
    np.testing.assert_array_equal(first.recist[0, 0], [9.5, 4.5])
    assert none.boxes.shape == (0, 4) and none.recist.shape == (0, 4, 2)


def test_the_lesions_of_a_slice_are_its_rows_in_their_order_whatever_the_order_of_the_tables(monkeypatch):
    """And all slices are scaled at once: DeepLesion's 23,000 took half a millisecond each, at every start."""
    random, calls = np.random.default_rng(2), []
    monkeypatch.setattr(train_dataset, "to_stored", lambda *given: calls.append(given) or to_stored(*given))
    index = pd.DataFrame({"file_name": [*"dbca"], "scale_x": random.random(4), "scale_y": random.random(4)})
    lesions = pd.DataFrame(random.random((30, 12)) * 100, columns=[*BOX, *RECIST])
    lesions = lesions.assign(lesion=random.permutation(30), file_name=random.choice([*"abdx"], 30))
    found = lesions_of_slices(index, lesions)
    assert len(found) == 4 and len(calls) == 2
    for slice_row, of_slice in zip(index.itertuples(), found, strict=True):
        own = lesions[lesions["file_name"] == slice_row.file_name]
        assert of_slice.numbers.tolist() == own["lesion"].tolist()
        for values, columns in ((of_slice.boxes, BOX), (of_slice.recist.reshape(-1, 8), RECIST)):
            np.testing.assert_array_equal(values, to_stored(own[columns], slice_row.scale_x, slice_row.scale_y))
    assert lesions_of_slices(index[:0], lesions) == []


def test_an_epoch_shows_whole_batches_of_different_samples():
    sampler = EpochSampler(11, batch=4, seed=0)
    epoch = list(sampler)
    assert len(epoch) == len(sampler) == 8
    assert len({index for _, index in epoch}) == 8 and {e for e, _ in epoch} == {0}
    sampler.epoch = 1
    assert {e for e, _ in sampler} == {1} and [i for _, i in sampler] != [i for _, i in epoch]


def test_processes_share_out_the_batches_of_one():
    one = list(EpochSampler(13, batch=6, seed=3))
    shares = [list(EpochSampler(13, batch=6, seed=3, rank=rank, processes=3)) for rank in range(3)]
    for k in range(2):
        assert [item for share in shares for item in share[2 * k : 2 * k + 2]] == one[6 * k : 6 * k + 6]


def test_the_order_of_an_epoch_does_not_depend_on_those_before():
    undisturbed, resumed = EpochSampler(9, 3, seed=0), EpochSampler(9, 3, seed=0)
    list(undisturbed)
    undisturbed.epoch = resumed.epoch = 3
    assert list(undisturbed) == list(resumed)
    assert {epoch for epoch, _ in resumed} == {3}


def test_a_set_smaller_than_a_batch_is_repeated():
    assert sorted(i for _, i in EpochSampler(3, batch=6, seed=0)) == [0, 0, 1, 1, 2, 2]


def test_the_number_of_loader_processes_changes_nothing(tmp_path):
    data = dataset(tmp_path)
    batches = [list(loader(data, 4, EpochSampler(12, 4, seed=0), Hardware("cpu", 1, 1, n))) for n in (0, 2)]
    for a, b in zip(*batches, strict=True):
        assert a.keys == b.keys
        for x, y in zip(a[1:], b[1:], strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)
