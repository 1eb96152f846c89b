"""The phantom: official format, truth of its annotations, organs and neighbours, equal bytes, real statistics."""

import shutil
import zipfile

import cv2
import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML
from stage_runs import link_code, run_stage

from lesionpipe.core.errors import UserError
from lesionpipe.mask_quality.quality import read_true_masks
from lesionpipe.params.sections import Phantom
from lesionpipe.phantom import lesions, plan, render
from lesionpipe.phantom.archive import patient_rows, write_parts
from lesionpipe.phantom.canvas import Canvas, Label, Tissue, superellipse
from lesionpipe.phantom.lesions import axis_lengths, recist
from lesionpipe.phantom.tubes import Tubes

TINY = Phantom(
    seed=3, patients_per_part=4, extra_test_patients=0, key_slices_per_patient=2, image_size=128, context_mm=2
)
MANY = Phantom(
    seed=3, patients_per_part=40, extra_test_patients=0, key_slices_per_patient=3, image_size=128, context_mm=2
)
OFFICIAL_COLUMNS = (
    "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,"
    "Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,Spacing_mm_px_,"
    "Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test"
)


def changed(settings: Phantom, **values: int) -> Phantom:
    return settings.model_copy(update=values)


def numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    return np.array([[float(v) for v in text.split(", ")] for text in table[column]])


def annotations(settings: Phantom, part: str) -> pd.DataFrame:
    """A part's DL_info.csv without drawing its slices."""
    number = settings.patients_per_part + settings.extra_test_patients
    patients = [plan.plan_patient(settings, part, index) for index in range(number)]
    return pd.DataFrame([row for patient in patients for row in patient_rows(patient, settings.seed)])


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return annotations(TINY, "01")


@pytest.fixture(scope="module")
def many() -> pd.DataFrame:
    return annotations(MANY, "01")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    write_parts(["01"], TINY, folder, workers=1)
    return folder / "01"


@pytest.fixture(scope="module")
def patients() -> list[plan.Patient]:
    settings = changed(TINY, image_size=256, key_slices_per_patient=3)
    return [plan.plan_patient(settings, "02", index) for index in range(4)]


def lesions_of(patients):
    for patient in patients:
        for scan in patient.scans:
            for key in scan.key_slices:
                for lesion in key.lesions:
                    yield patient, scan, key, lesion


# --- the table ------------------------------------------------------------------------------------------------------


def test_table_has_the_official_columns_in_the_official_text_forms(table):
    assert ",".join(table.columns) == OFFICIAL_COLUMNS
    number = r"-?\d+(?:\.\d+)?"
    for column, count in {
        "Measurement_coordinates": 8,
        "Bounding_boxes": 4,
        "Lesion_diameters_Pixel_": 2,
        "Normalized_lesion_location": 3,
        "Slice_range": 2,
        "Spacing_mm_px_": 3,
        "Image_size": 2,
        "DICOM_windows": 2,
    }.items():
        assert table[column].str.fullmatch(", ".join([number] * count)).all(), column
    keys = zip(table.Patient_index, table.Study_index, table.Series_ID, table.Key_slice_index, strict=True)
    names = [f"{patient:06d}_{study:02d}_{series:02d}_{key:03d}.png" for patient, study, series, key in keys]
    assert table.File_name.tolist() == names == sorted(names)
    assert set(table.Patient_gender) <= {"F", "M"}
    assert (numbers(table, "Image_size") == 128).all()


def test_the_type_is_given_on_val_and_test_rows_only(many):
    train = many.Train_Val_Test == plan.TRAIN
    assert (many.Coarse_lesion_type[train] == -1).all()
    assert set(many.Coarse_lesion_type[~train]) <= set(range(1, 9))


def test_all_eight_types_all_intervals_and_one_to_three_lesions_occur():
    rows = annotations(changed(MANY, patients_per_part=90), "05")
    assert set(rows.Coarse_lesion_type) == {-1, *range(1, 9)}
    intervals = pd.Series(numbers(rows, "Spacing_mm_px_")[:, 2]).value_counts()
    assert set(intervals.index) == {1.0, 2.0, 2.5, 5.0} and intervals.idxmax() == 5.0
    per_slice = rows.groupby("File_name").size().value_counts()
    assert set(per_slice.index) == {1, 2, 3} and per_slice[1] > 0.8 * per_slice.sum()


def test_patients_are_split_70_15_15_and_small_parts_hold_every_split():
    large = plan.splits("01", changed(MANY, patients_per_part=60))
    assert np.bincount(large).tolist() == [0, 42, 9, 9]
    for part in ("01", "02", "56"):
        assert sorted(plan.splits(part, changed(TINY, patients_per_part=3))) == [1, 2, 3]
    rows = annotations(MANY, "02")
    assert (rows.groupby("Patient_index").Train_Val_Test.nunique() == 1).all()


def test_extra_test_patients_change_nothing_else():
    more = changed(TINY, extra_test_patients=2)
    before, after = annotations(TINY, "02"), annotations(more, "02")
    pd.testing.assert_frame_equal(after[: len(before)], before)
    added = after[len(before) :]
    assert set(added.Patient_index) == {990_101, 990_102} and set(added.Train_Val_Test) == {plan.TEST}
    assert set(annotations(more, "01").Patient_index).isdisjoint(after.Patient_index)


def test_each_part_leaves_its_own_rows_and_patients_are_numbered_over_all_parts(table, folder):
    pd.testing.assert_frame_equal(pd.read_csv(folder / "DL_info.csv"), table, check_dtype=False)  # whole ages as int
    other = annotations(TINY, "02")
    assert set(table.Patient_index) == {1, 2, 3, 4} and set(other.Patient_index) == {5, 6, 7, 8}


# --- truth ----------------------------------------------------------------------------------------------------------


def test_recist_of_a_rectangle_is_its_diagonal_and_the_longest_chord_across():
    mask = np.zeros((30, 30), bool)
    mask[10:15, 4:25] = True  # pixel centres span 20 x 4
    points = recist(mask)
    assert sorted(map(tuple, points[:2].tolist())) in ([(4, 10), (24, 14)], [(4, 14), (24, 10)])
    long, short = axis_lengths(points)
    assert long == pytest.approx(np.hypot(20, 4))
    # the perpendicular of the diagonal leans 11.3 degrees; chords within 8 of it span 4 rows and 1 column
    assert short == pytest.approx(np.hypot(4, 1))


def test_recist_of_a_disc_gives_two_equal_diameters_and_of_one_row_of_pixels_still_four_points():
    y, x = np.mgrid[:41, :41]
    assert axis_lengths(recist((x - 20) ** 2 + (y - 20) ** 2 <= 15**2)) == pytest.approx((30, 30), abs=0.5)
    line = np.zeros((5, 9), bool)
    line[2, 2:7] = True
    points = recist(line)
    assert points.shape == (4, 2) and axis_lengths(points)[0] == 4


def test_boxes_are_the_extent_of_the_recist_points_and_five_pixels(table):
    points = numbers(table, "Measurement_coordinates").reshape(-1, 4, 2)
    boxes = numbers(table, "Bounding_boxes")
    np.testing.assert_array_equal(boxes[:, :2], points.min(axis=1) - 5)
    np.testing.assert_array_equal(boxes[:, 2:], points.max(axis=1) + 5)
    measured = np.hypot(*np.moveaxis(points[:, 1::2] - points[:, ::2], -1, 0))
    np.testing.assert_allclose(numbers(table, "Lesion_diameters_Pixel_"), measured, rtol=1e-5)
    assert (measured[:, 0] >= measured[:, 1]).all()


def test_recist_points_lie_on_the_boundary_of_the_true_masks(table, folder):
    masks = read_true_masks(folder / "true_masks_01.zip")
    order = table.groupby("File_name").cumcount() + 1
    assert list(masks) == list(zip(table.File_name, order, strict=True))
    for key, text in zip(masks, table.Measurement_coordinates, strict=True):
        mask = masks[key]
        assert mask.shape == (128, 128) and mask.dtype == bool
        inner = cv2.erode(np.pad(mask, 1).astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1]
        for x, y in np.array([int(v) - 1 for v in text.split(", ")]).reshape(4, 2):
            assert mask[y, x] and not inner[y, x], key


def test_lesions_lie_in_the_organ_of_their_type(patients):
    seen = set()
    for patient, scan, key, lesion in lesions_of(patients):
        canvas = scan.canvas()
        patient.anatomy.paint(canvas, scan.z(key.number))
        covered = canvas.label[scan.mask(lesion, key.number)]
        kind = lesion.kind
        elsewhere = 1 - np.isin(covered, kind.over).mean()
        assert np.isin(covered, kind.host).mean() > 0.25, (scan.name, key.number, kind.name)
        assert elsewhere < 0.35, (scan.name, key.number, kind.name, np.unique(covered))
        seen.add(kind.number)
    assert len(seen) >= 5


def test_a_lesion_in_neighbouring_slices_is_nearly_the_same(patients):
    compared = 0
    for _, scan, key, lesion in lesions_of(patients):
        here = scan.mask(lesion, key.number)
        for number in set(key.stored) - {key.number}:
            if abs(scan.z(number) - lesion.centre[2]) > 0.5 * lesion.height or here.sum() < 60:
                continue
            there = scan.mask(lesion, number)
            assert (here & there).sum() / (here | there).sum() > 0.5
            compared += 1
    assert compared > 20


def test_lesions_of_one_key_slice_do_not_reach_the_slices_of_another(patients):
    for patient in patients:
        for scan in patient.scans:
            for key in scan.key_slices:
                others = [lesion for other in scan.key_slices if other is not key for lesion in other.lesions]
                assert all(lesion.contour(scan.z(n)) is None for lesion in others for n in key.stored)


# --- slices ---------------------------------------------------------------------------------------------------------


def test_the_archive_holds_16_bit_slices_in_the_official_layout_and_every_key_slice(table, folder):
    with zipfile.ZipFile(folder / "Images_png_01.zip") as archive:
        names = archive.namelist()
        pictures = [cv2.imdecode(np.frombuffer(archive.read(n), np.uint8), cv2.IMREAD_UNCHANGED) for n in names[:6]]
    assert len(names) == len(set(names)) >= 2.5 * table.File_name.nunique()
    assert {f"Images_png/{f[:12]}/{f[13:]}" for f in table.File_name} <= set(names)
    for picture in pictures:
        assert picture.dtype == np.uint16 and picture.shape == (128, 128)
        hu = picture.astype(int) - 32768
        assert hu.min() >= -1024 and np.median(hu[:4]) < -950 and hu.max() > 300  # air in the corner, bone somewhere


def test_the_slices_that_2_mm_either_way_need_are_there_but_for_a_few_missing_neighbours(many):
    missing = total = 0
    for index in range(MANY.patients_per_part):
        for scan in plan.plan_patient(MANY, "01", index).scans:
            for key in scan.key_slices:
                reach = {1.0: 2, 2.0: 1, 2.5: 1, 5.0: 1}[scan.interval]
                wanted = set(range(key.number - reach, key.number + reach + 1))
                assert key.number in key.stored and set(key.stored) <= wanted
                assert key.slice_range[0] <= min(key.stored) and max(key.stored) <= key.slice_range[1]
                missing += wanted != set(key.stored)
                total += 1
    assert total == many.File_name.nunique() and 0 < missing < 0.15 * total


def test_tissues_have_realistic_hu_and_noise_and_neighbours_agree():
    settings = changed(TINY, image_size=256)
    patient = plan.plan_patient(settings, "01", 0)
    scan = patient.scans[0]
    number = 1 + round((0.98 * patient.anatomy.body.level_mm - plan.FIRST_Z_MM) / scan.interval)
    texture = render.random_texture(np.random.default_rng(0))
    first, second, far = (
        render.render_slice(patient, scan, n, texture, 0).astype(int) - 32768 for n in (number, number + 1, number + 40)
    )
    canvas = scan.canvas()
    patient.anatomy.paint(canvas, scan.z(number))
    for label, low, high in ((Label.LUNG, -900, -750), (Label.LIVER, 40, 130), (Label.FAT, -125, -70)):
        inside = cv2.erode((canvas.label == label).astype(np.uint8), np.ones((3, 3))).astype(bool)
        assert low < np.median(first[inside]) < high, label
        assert 4 < first[inside].std() < 160, label
    assert np.abs(first - second).mean() < 0.6 * np.abs(first - far).mean()
    assert (first != second).mean() > 0.5  # noise of its own


def test_equal_seeds_give_equal_bytes_whatever_the_number_of_workers(folder, tmp_path):
    write_parts(["02", "01"], TINY, tmp_path / "two", workers=2)
    write_parts(["01"], changed(TINY, seed=4), tmp_path / "other", workers=1)
    for name in ("Images_png_01.zip", "true_masks_01.zip", "DL_info.csv"):
        assert (folder / name).read_bytes() == (tmp_path / "two" / "01" / name).read_bytes()
        assert (folder / name).read_bytes() != (tmp_path / "other" / "01" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "two" / "01").iterdir()) == [
        "DL_info.csv",
        "Images_png_01.zip",
        "true_masks_01.zip",
    ]


def test_true_masks_that_are_missing_or_broken_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.zip: no such file"):
        read_true_masks(tmp_path / "nowhere.zip")
    (tmp_path / "half.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"half\.zip: not a whole zip archive"):
        read_true_masks(tmp_path / "half.zip")


def test_an_archive_of_something_else_is_no_archive_of_true_masks(tmp_path):
    for name, content in (("notes.txt", b"x"), ("true_masks/a_lesionx.png", b"x"), ("true_masks/a_lesion1.png", b"x")):
        with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
            archive.writestr(name, content)
        with pytest.raises(UserError, match=rf"other\.zip: {name} is no true mask"):
            read_true_masks(tmp_path / "other.zip")


def test_the_stage_leaves_the_part_and_an_empty_folder_for_another_source(root, tmp_path, folder):
    link_code(root, tmp_path)
    yaml = YAML()
    params = yaml.load((root / "params.yaml").read_text())
    params["phantom"] = TINY.model_dump()
    params["dataset"].update(source="phantom", parts=["01"])
    drawn = {file.name: file.read_bytes() for file in folder.glob("*")}
    for source, expected in (("phantom", drawn), ("nih", {"not-drawn.txt": b"dataset.source: nih\n"})):
        params["dataset"]["source"] = source
        yaml.dump(params, tmp_path / "params.yaml")
        assert run_stage(tmp_path, "phantom").returncode == 0
        left = {file.name: file.read_bytes() for file in (tmp_path / "data" / "phantom" / "01").iterdir()}
        assert left == expected


def test_a_stage_without_a_part_says_how_it_is_called(root, tmp_path):
    link_code(root, tmp_path)
    shutil.copy(root / "params.yaml", tmp_path)
    done = run_stage(tmp_path, "download")
    assert done.returncode == 1
    assert done.stderr.startswith("error: usage: python -m stages.download NN") and done.stderr.count("\n") == 1
    assert "part '99' is not in dataset.parts" in run_stage(tmp_path, "download", "99").stderr


# --- geometry -------------------------------------------------------------------------------------------------------


def test_a_canvas_fills_a_disc_of_the_right_size_in_the_right_place():
    canvas = Canvas(101, 2.0, Tissue(np.random.default_rng(0)), offset=(10.0, -20.0))
    canvas.fill(superellipse((30, 0), (20, 20)), Label.LIVER, 60)
    rows, columns = np.nonzero(canvas.label == Label.LIVER)
    assert (columns.mean(), rows.mean()) == pytest.approx((50 + 5 + 15, 50 - 10), abs=0.1)
    assert len(rows) == pytest.approx(np.pi * 10.5**2, rel=0.06)  # the outline itself is filled, half a pixel more


def test_tubes_leave_a_disc_where_they_cross_and_a_band_where_they_lie_in_the_plane():
    tubes = Tubes(
        np.array([[[0, 0, -10], [0, 0, 10]], [[-9, 5, 1], [9, 5, 1]], [[0, 0, 40], [0, 0, 50]]], float),
        np.array([3.0, 2.0, 3.0]),
    )
    ends, radii, which = tubes.cut(0.0)
    assert which.tolist() == [0, 1]
    np.testing.assert_allclose(ends[0], 0, atol=1e-6)
    np.testing.assert_allclose(ends[1], [[-9, 5], [9, 5]], atol=1e-6)
    np.testing.assert_allclose(radii, [3, np.sqrt(2**2 - 1**2)])


# --- statistics -----------------------------------------------------------------------------------------------------


def test_type_follows_from_size():
    small, huge = lesions.kind_weights(6.0), lesions.kind_weights(90.0)
    assert small.sum() == pytest.approx(1) and lesions.KINDS[int(small.argmax())].name == "lung"
    assert huge[[kind.name for kind in lesions.KINDS].index("kidney")] == 0


def test_boxes_shapes_and_spacing_follow_the_real_ones(shared_data):
    settings = changed(MANY, image_size=512, patients_per_part=70, key_slices_per_patient=4)
    ours = annotations(settings, "03")
    real = pd.read_csv(shared_data / "deeplesion" / "DL_info_reconstructed.csv")

    def measures(table: pd.DataFrame) -> pd.DataFrame:
        boxes = numbers(table, "Bounding_boxes")
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        return pd.DataFrame({"width": width, "height": height, "aspect": np.maximum(width / height, height / width)})

    quantiles = [0.1, 0.25, 0.5, 0.75, 0.9]
    ratio = measures(ours).quantile(quantiles) / measures(real).quantile(quantiles)
    assert ratio.stack().between(0.8, 1.25).all(), ratio
    known = real.dropna(subset=["Spacing_mm_px_", "Lesion_diameters_Pixel_"])
    for column in ("Spacing_mm_px_", "Lesion_diameters_Pixel_"):
        medians = np.median(numbers(ours, column)[:, 0]), np.median(numbers(known, column)[:, 0])
        assert medians[0] == pytest.approx(medians[1], rel=0.15), column


@pytest.mark.parametrize("context_mm", [8, 26])
def test_a_deeper_phantom_has_the_same_lesions_and_more_slices_around_them(context_mm):
    deep = changed(TINY, context_mm=context_mm)
    for index in range(4):
        shallow, deeper = plan.plan_patient(TINY, "01", index), plan.plan_patient(deep, "01", index)
        for scan, more in zip(shallow.scans, deeper.scans, strict=True):
            for key, other in zip(scan.key_slices, more.key_slices, strict=True):
                assert key.number == other.number and len(key.lesions) == len(other.lesions)
                assert set(key.stored) <= set(other.stored)
                missing = set(range(*other.slice_range)) - set(other.stored)
                reach = int(np.ceil(context_mm / scan.interval))
                assert other.slice_range[0] == max(key.number - reach, 1)
                assert len(missing) <= 1 and other.slice_range[1] in (key.number, key.number + reach)


def test_slices_far_from_the_lesion_are_drawn_too():
    patient = plan.plan_patient(changed(TINY, context_mm=26), "01", 0)
    texture = render.random_texture(np.random.default_rng(0))
    for scan in patient.scans[:1]:
        for number in (scan.key_slices[0].stored[0], scan.key_slices[0].stored[-1]):
            picture = render.render_slice(patient, scan, number, texture, seed=0)
            assert picture.shape == (128, 128) and picture.std() > 100
