"""COCO in: what comes out right, and every way in which a file may be wrong. COCO out: read back by pycocotools."""

import contextlib
import io
import json

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small_set import NAMES, SIZE, change_params, write_small_set
from torchvision.datasets import CocoDetection

from lesionpipe.commands.export import coco as export_coco
from lesionpipe.core.errors import UserError
from lesionpipe.core.formats import write_csv
from lesionpipe.data.coco import read_coco_results
from lesionpipe.data.detections import read_detections
from lesionpipe.data.stored.schema import read_lesions
from lesionpipe.evaluate.bootstrap import PatientDraws
from lesionpipe.evaluate.coco import picture, read_truth
from lesionpipe.evaluate.scores import score_detections
from lesionpipe.evaluate.split import evaluate_split
from lesionpipe.evaluate.truth import Detections
from lesionpipe.params import load_params

TRUTH = {
    "images": [
        {"id": 7, "file_name": "000001_01_01_010.png", "width": 512},
        {"id": "b", "file_name": "Images_png/000001_02_01/011.png"},
        {"id": 3, "file_name": "scan.png"},
        {"id": 9},
    ],
    "annotations": [
        {"id": 1, "image_id": 3, "bbox": [1, 2, 3.5, 4], "category_id": 5},
        {"id": 2, "image_id": 7, "bbox": [0, 0, 9, 0]},
    ],
}
RESULTS = [{"image_id": "b", "bbox": [1, 2, 3, 4], "score": 1, "category_id": 1}]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_boxes_images_and_patients(tmp_path):
    truth, ids = read_truth(write(tmp_path / "gt.json", TRUTH))
    assert truth.lesion_images.tolist() == [2, 0] and truth.lesion_boxes.tolist() == [[1, 2, 4.5, 6], [0, 0, 9, 0]]
    first, second, third, fourth = truth.patients
    assert first == second and len({first, third, fourth}) == 3 == truth.patient_count
    found = Detections(*read_coco_results(write(tmp_path / "dt.json", RESULTS), ids))
    assert (found.images.tolist(), found.boxes.tolist(), found.scores.tolist()) == ([1], [[1, 2, 4, 6]], [1])
    assert [len(column) for column in read_coco_results(write(tmp_path / "none.json", []), ids)] == [0, 0, 0]


def patients(tmp_path, *images, key=None):
    """Number of each image's patient."""
    content = {"images": [{"id": i, **image} for i, image in enumerate(images)], "annotations": []}
    return read_truth(write(tmp_path / "gt.json", content), key)[0].patients.tolist()


@pytest.mark.parametrize(
    "names",
    [
        ("240115_0001.png", "240115_0002.png"),  # a date
        ("ct/202401_thorax.png", "ct/202401_pelvis.png"),
        ("240115_01_01_001.png", "240115_01_01_002.png"),
        ("000001_scan.png", "000001_other.png"),
        ("000001_01_01_109.png.png", "000001_01_01_110.png.png"),
    ],
)
def test_other_file_names_name_no_patient(tmp_path, names):
    assert len(set(patients(tmp_path, *({"file_name": name} for name in names)))) == 2


def test_the_field_patient_or_another_one_groups_the_images(tmp_path):
    images = [{"patient": 4, "case": "x"}, {"patient": 4, "case": "y"}, {"patient": "5", "case": "y"}]
    assert patients(tmp_path, *images) == [0, 0, 1]
    assert patients(tmp_path, *images, key="case") == [0, 1, 1]
    assert patients(tmp_path, *images, key="id") == [0, 1, 2]
    assert patients(tmp_path, *({"patient": n} for n in (10, 2, 1))) == [2, 1, 0]  # as numbers sort
    assert patients(tmp_path, {"patient": 1}, {"file_name": "000001_02_01/011.png"}) == [0, 0]


@pytest.mark.parametrize(
    ("image", "key", "message"),
    [
        ({"patient": 1}, "case", r"images\[0\].case = None: a patient is a text or a whole number"),
        ({"patient": 1.5}, None, r"images\[0\].patient = 1.5: .* --patient-key"),
        ({"case": [1]}, "case", r"images\[0\].case = \[1\]: "),
    ],
)
def test_a_missing_or_odd_patient_is_named(tmp_path, image, key, message):
    with pytest.raises(UserError, match=message):
        patients(tmp_path, image, key=key)


def with_first(content, part, **change):
    """A copy whose first entry is changed."""
    copy = json.loads(json.dumps(content))
    (copy[part] if part else copy)[0].update(change)
    return copy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(TRUTH)[:-40], r"gt.json: line 1, column \d+: not valid JSON"),
        ([], "gt.json: the whole file: "),
        ({"images": TRUTH["images"]}, "gt.json: annotations: field required"),
        ({**TRUTH, "images": []}, "gt.json: images: list should have at least 1 item"),
        ({**TRUTH, "images": [*TRUTH["images"], {"id": 7}]}, r"images\[4\].id = 7 occurs twice"),
        ({**TRUTH, "annotations": TRUTH["annotations"] * 2}, r"annotations\[2\].id = 1 occurs twice"),
        (with_first(TRUTH, "annotations", image_id=4), r"annotations\[0\].image_id = 4: no image has this id"),
        (with_first(TRUTH, "annotations", iscrowd=1), r"annotations\[0\].iscrowd = 1: "),
        (
            with_first(TRUTH, "annotations", bbox=[0, 0, -1, 5]),
            r"annotations\[0\].bbox\[2\] = -1: .* greater than or equal to 0",
        ),
        (with_first(TRUTH, "annotations", bbox=[0, 0, 5]), r"annotations\[0\].bbox\[3\]: field required"),
        (
            with_first(TRUTH, "annotations", bbox=[0, float("nan"), 5, 5]),
            r"annotations\[0\].bbox\[1\] = nan: .* finite",
        ),
        (with_first(TRUTH, "images", id=None), r"images\[0\].id"),
    ],
)
def test_a_wrong_ground_truth_is_named(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as error:
        read_truth(write(tmp_path / "gt.json", content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"image_id": 7, "bbox": [1, 2', r"dt.json: line 1, column \d+: not valid JSON"),
        ({"annotations": RESULTS}, "dt.json: the whole file: input should be a valid list"),
        (with_first(RESULTS, None, image_id=77), r"dt.json: \[0\].image_id = 77: no image has this id"),
        (with_first(RESULTS, None, score=float("inf")), r"\[0\].score = inf: .* finite"),
        (with_first(RESULTS, None, score="0.9"), r"\[0\].score = '0.9': input should be a valid number"),
        (with_first(RESULTS, None, score=None), r"\[0\].score"),
        (with_first(RESULTS, None, bbox=[0, 0, 5, -2]), r"\[0\].bbox\[3\] = -2"),
        (with_first(RESULTS, None, bbox=[0, 0, 5, 10**400]), r"dt.json"),
        (with_first(RESULTS, None, bbox=[1.7e308, 0, 1.7e308, 5]), r"\[0\].bbox\[0\] = 1.7e\+308: "),
        (with_first(RESULTS, None, bbox=[0, 0, 1e200, 1e200]), r"\[0\].bbox\[2\] = 1e\+200: "),
        (with_first(RESULTS, None, score="A" * 9999), r"\[0\].score = 'A{5,20}\.\.\.A{5,20}': "),
        (with_first(RESULTS, None, image_id=7.0), r"\[0\].image_id = 7.0: [^(]*$"),
        ([{"image_id": 7, "score": 1}], r"\[0\].bbox: field required"),
        ([3], r"\[0\] = 3: "),
    ],
)
def test_wrong_results_are_named(tmp_path, content, message):
    ids = read_truth(write(tmp_path / "gt.json", TRUTH))[1]
    with pytest.raises(UserError, match=message) as error:
        read_coco_results(write(tmp_path / "dt.json", content), ids)
    assert "\n" not in str(error.value)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["image_id", "bbox", "score"]), inner),
    max_leaves=12,
)


@settings(deadline=None)
@given(values)
def test_any_json_is_read_or_refused_in_one_line(tmp_path_factory, value):
    path = write(tmp_path_factory.getbasetemp() / "any.json", value)
    ids = pd.Index([1, 2, 3], dtype=object)
    for read in (read_truth, lambda path: read_coco_results(path, ids)):
        try:
            read(path)
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    write_small_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    export_coco(tmp_path / "coco", masks=True)
    return tmp_path / "coco"


def quietly(make, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return make(*arguments)


def test_pycocotools_reads_the_data_set(exported):
    coco = quietly(COCO, str(exported / "test.json"))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == NAMES[4:]
    assert sorted(coco.getAnnIds()) == [4, 5, 6]
    first, last = coco.loadAnns([4, 6])
    assert first["bbox"] == [10, 10, 19, 19] and first["type"] == "lung" and first["long_diameter_mm"] == 30
    assert first["keypoints"] == [10, 20, 2, 29, 20, 2, 20, 12, 2, 20, 27, 2] and first["num_keypoints"] == 4
    assert last["keypoints"] == [0] * 12 and last["num_keypoints"] == 0 and last["long_diameter_mm"] is None
    mask = coco.annToMask(first)  # 10 x 10 px from (5, 5) on a grid of half the side
    rows, columns = np.nonzero(mask)
    assert mask.shape == (SIZE, SIZE) and (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 29, 10, 29)
    assert first["area"] == pytest.approx(mask.sum()) == pytest.approx(400, abs=8)  # linear growth rounds the corners


def test_pycocotools_scores_the_detections(exported):
    """COCO's average precision at IoU 0.5 is the same up to its 101 steps of recall."""
    truth = quietly(COCO, str(exported / "test.json"))
    evaluation = COCOeval(truth, quietly(truth.loadRes, str(exported / "detections_test.json")), "bbox")
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        quietly(step)
    assert evaluation.stats[1] == pytest.approx(4 / 9, abs=0.01)


def test_exported_files_score_as_the_pipeline(exported):
    truth, ids = read_truth(exported / "test.json")
    found = Detections(*read_coco_results(exported / "detections_test.json", ids))
    index, lesions, table = pd.read_csv("data/slices/01.csv"), read_lesions(), read_detections()
    chosen = load_params().evaluate
    direct = evaluate_split("test", index, lesions, table, chosen)
    assert truth.images == direct.truth.images and (truth.patients == direct.truth.patients).all()
    assert (truth.lesion_boxes == direct.truth.lesion_boxes).all() and (found.boxes == direct.detections.boxes).all()
    draws = PatientDraws(truth.patient_count, chosen.bootstrap, chosen.seed)
    again = score_detections(truth, found, chosen.fp_rates, chosen.iou, draws)
    assert again.sensitivity == direct.scores.sensitivity and again.mean == direct.scores.mean
    assert (found.images == direct.detections.images).all() and (found.scores == direct.detections.scores).all()


def test_every_exported_image_is_there_for_torchvision(exported):
    """A training set as any framework reads it: a picture of the annotated size, its boxes and masks."""
    for split, names in (("train", NAMES[:2]), ("val", NAMES[2:4]), ("test", NAMES[4:])):
        data = quietly(CocoDetection, str(exported / "images"), str(exported / f"{split}.json"))
        assert len(data) == 2
        for (image, targets), name in zip(data, names, strict=True):
            assert (image.size, image.mode) == ((SIZE, SIZE), "RGB") and (exported / "images" / name).is_file()
            assert all(data.coco.annToMask(target).shape == (SIZE, SIZE) for target in targets)


def test_pictures_are_three_slices_from_before_to_after():
    stack = np.stack([np.full((4, 4), hu, np.int16) for hu in (-9999, -100, 0, 100, 9999)])
    assert picture(stack, (-100, 100), (8, 6)).shape == (6, 8, 3)
    assert picture(stack, (-100, 100), (4, 4))[0, 0].tolist() == [0, 128, 255]
    assert picture(stack[2:3], (-100, 100), (4, 4))[0, 0].tolist() == [128, 128, 128]
    assert picture(stack, (0, 50), (4, 4))[0, 0].tolist() == [0, 0, 255]


def test_exported_pictures_hold_the_slices_in_order(tmp_path, monkeypatch):
    write_small_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    stack = np.zeros((6, 3, 32, 32), np.int16) + np.array([-1024, 13, 1050], np.int16)[:, None, None]
    (tmp_path / "data/slices/01.npy").unlink()
    np.save(tmp_path / "data/slices/01.npy", stack)
    export_coco(tmp_path / "coco", masks=False)
    with PIL.Image.open(tmp_path / "coco/images" / NAMES[0]) as image:
        assert image.getpixel((5, 5)) == (0, 128, 255)


def test_file_names_lead_to_the_archives_slices(tmp_path, monkeypatch):
    write_small_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    slices = tmp_path / "Images_png"
    with pytest.raises(UserError, match=r"--slices-folder .*Images_png: no file 000001_01_01/010.png in it"):
        export_coco(tmp_path / "coco", slices_folder=slices)
    for name in NAMES:
        (slices / name[:12]).mkdir(parents=True)
        PIL.Image.fromarray(np.full((SIZE, SIZE), 32768, np.uint16)).save(slices / name[:12] / "010.png")
    export_coco(tmp_path / "coco", slices_folder=slices)
    assert not (tmp_path / "coco/images").exists()
    data = quietly(CocoDetection, str(slices), str(tmp_path / "coco/val.json"))
    assert [image.size for image, _ in data] == [(SIZE, SIZE)] * 2
    assert read_truth(tmp_path / "coco/val.json")[0].patient_count == 2


def test_dropped_noisy_lesions_are_not_exported(tmp_path, monkeypatch, capsys):
    write_small_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    change_params(tmp_path, "lesions", noisy="drop")
    lesions = read_lesions()
    write_csv("data/lesions.csv", lesions.assign(noisy=lesions["lesion"].isin([4, 5]).astype(int)))
    export_coco(tmp_path / "coco", images=False)
    content = json.loads((tmp_path / "coco/test.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [NAMES[5]]
    assert [lesion["id"] for lesion in content["annotations"]] == [6]
    found = json.loads((tmp_path / "coco/detections_test.json").read_text())
    assert {result["image_id"] for result in found} == {content["images"][0]["id"]} == {6}
    assert "noisy lesions: drop" in capsys.readouterr().out


def test_export_without_masks_or_detections(tmp_path, monkeypatch, capsys):
    write_small_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/detections.csv").unlink()
    export_coco(tmp_path / "coco", masks=False, images=False)
    assert "so no detections are written" in capsys.readouterr().out
    lesion = json.loads((tmp_path / "coco/val.json").read_text())["annotations"][0]
    assert lesion["segmentation"] == [] and lesion["area"] == 19 * 19
    assert not (tmp_path / "coco/detections_test.json").exists()
