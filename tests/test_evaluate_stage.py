"""The stage `evaluate` on a set whose numbers can be counted, and on what may be wrong with its inputs."""

import csv
import json
import os
import pickle
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dvc_render.vega import VegaRenderer
from small_set import FOUND, HIT, MISS, NAMES, change_params, write_found, write_small_set

from lesionpipe.core.errors import UserError, run
from lesionpipe.core.formats import write_csv
from lesionpipe.data.detections import read_detections, read_heatmaps
from lesionpipe.data.size_groups import by_size
from lesionpipe.data.stored.schema import read_lesions
from lesionpipe.evaluate.published import (
    PLOTTED_METHODS,
    THIS_RUN,
    is_published_set,
    published_table,
    read_published,
    with_published,
)
from lesionpipe.evaluate.split import curve_rates, evaluate_split, lesion_groups
from lesionpipe.evaluate.truth import truth_of_split
from lesionpipe.params import load_params


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_small_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(root):
    runpy.run_path(str(root / "stages" / "evaluate.py"))["main"]()
    return json.loads(Path("metrics/scores.json").read_text())


def evaluated(split="test"):
    """The numbers of one split alone."""
    index = pd.read_csv("data/slices/01.csv")
    return evaluate_split(split, index, read_lesions(), read_detections(), load_params().evaluate)


def test_numbers_that_can_be_counted(folder):
    """Test: false, hit, hit, false of 3 lesions on 2 slices: with one false positive allowed 2 of 3 are found."""
    scores = evaluated().metrics()
    assert {k: scores[k] for k in ("images", "lesions", "patients", "detections", "noisy_lesions")} == {
        "images": 2,
        "lesions": 3,
        "patients": 2,
        "detections": 4,
        "noisy_lesions": 1,
    }
    assert scores["sensitivity_at_0.5"] == scores["sensitivity_at_16"] == pytest.approx(2 / 3)
    assert scores["threshold_at_0.5"] == 0.6 and scores["threshold_at_1"] == 0.5
    assert scores["mean_0.5_to_4"] == pytest.approx(2 / 3)
    assert scores["average_precision"] == pytest.approx(
        (2 / 3) * (2 / 3)
    )  # precision 1/2, then 2/3, envelope 2/3 up to recall 2/3
    assert scores["sensitivity_at_1_low"] <= scores["sensitivity_at_1"] <= scores["sensitivity_at_1_high"]


def test_groups_are_scored_apart(folder):
    groups = evaluated().groups
    size = groups["size"][groups["size"]["fps_per_image"] == 4].set_index("group")
    assert size["lesions"].to_dict() == {"< 10 mm": 0, "10-30 mm": 1, "> 30 mm": 1, "unknown": 1}
    assert size["sensitivity"].to_dict() == pytest.approx(
        {"< 10 mm": np.nan, "10-30 mm": 1, "> 30 mm": 1, "unknown": 0}, nan_ok=True
    )
    kind = groups["type"][groups["type"]["fps_per_image"] == 0.5].set_index("group")
    assert kind.loc["lung", ["lesions", "sensitivity"]].tolist() == [2, 0.5]
    assert kind.loc["bone", "sensitivity"] == 0  # two false positives, of which one is the lung lesion, come first
    interval = groups["interval"].drop_duplicates("group").set_index("group")["lesions"]
    assert interval.to_dict() == {"< 2.5 mm": 1, ">= 2.5 mm": 1, "unknown": 1}


def test_groups_of_lesions_and_those_of_none():
    lesions = pd.DataFrame(
        {"long_diameter_mm": [9.99, 10, 30, 30.01, np.nan], "type": "lung", "slice_interval_mm": 2.5}
    )
    groups = lesion_groups(lesions, (10, 30))
    sizes = {name: mask.nonzero()[0].tolist() for name, mask in groups["size"].items()}
    assert sizes == {"< 10 mm": [0], "10-30 mm": [1, 2], "> 30 mm": [3], "unknown": [4]}
    assert [int(mask.sum()) for mask in groups["type"].values()] == [0, 0, 0, 0, 5, 0, 0, 0]
    assert [int(mask.sum()) for mask in groups["interval"].values()] == [0, 5]


def test_the_plotted_curve(folder):
    curve = evaluated().curve
    assert list(curve) == ["split", "fps_per_image", "sensitivity", "low", "high", "strict_sensitivity", "threshold"]
    assert (curve["low"] <= curve["sensitivity"]).all() and (curve["sensitivity"] <= curve["high"]).all()
    assert curve["sensitivity"].is_monotonic_increasing
    rates = curve_rates(end=2.0)
    assert rates[0] == 0.125 and rates[-1] == 16 and {0.5, 1, 2, 4, 8} <= set(rates)
    assert curve_rates(end=100)[-1] == 32


def test_what_the_stage_leaves(folder, root):
    pytest.importorskip("jinja2")
    scores = evaluate(root)
    assert list(scores) == ["val", "test"] and scores["test"]["noisy"] == "keep"
    assert scores["val"]["sensitivity_at_1"] == 0.5
    assert set(pd.read_csv("metrics/froc.csv")["split"]) == {"val", "test"}
    for kind in ("size", "type", "interval"):
        assert len(pd.read_csv(f"metrics/froc_{kind}.csv")) > 0


@pytest.mark.parametrize(("template", "x", "rows"), [("froc", "fps_per_image", "curve"), ("groups", "group", "size")])
def test_the_plot_templates_fit_the_tables(folder, root, template, x, rows):
    result = evaluated()
    published = published_table(0.5, list(result.size_groups), same_data=False)
    table = with_published(result.curve if rows == "curve" else result.groups[rows], published)
    points = [{**row, "rev": "workspace"} for row in csv.DictReader(table.to_csv(index=False).splitlines())]
    renderer = VegaRenderer(
        points, "plot", template=template, template_dir=str(root / ".dvc/plots"), x=x, y="sensitivity"
    )
    filled = json.dumps(renderer.get_filled_template())
    assert "<DVC_METRIC" not in filled
    made = set(re.findall(r'"as": "(\w+)"', filled))
    used = set(re.findall(r"datum\[?'?\.?(\w+)", filled)) - made
    assert used <= {*table.columns} and {"split", "sensitivity", "low", "high", "method", "data"} <= used


def test_published_numbers_are_those_of_the_papers():
    table = read_published()
    assert not table.duplicated(["method", "group", "fps_per_image"]).any() and table["sensitivity"].between(0, 1).all()
    at = table.set_index(["method", "group", "fps_per_image"])["sensitivity"].sort_index()
    gate = "the paper (+ attention gate)"
    assert at[gate, "all"].tolist() == [0.7215, 0.8007, 0.8640, 0.9077, 0.9409, 0.9632]
    assert at[gate, "< 10 mm", 4] == 0.8835 and at[gate, "10-30 mm", 4] == 0.9173 and at[gate, "> 30 mm", 4] == 0.9302
    assert at["3DCE", "all", 4] == 0.8565 and at["MULAN", "all", 0.5] == 0.7612
    assert set(PLOTTED_METHODS) <= set(table["method"])


@pytest.mark.parametrize(
    ("source", "split", "slices", "same"),
    [
        ("nih", "test", 4831, True),
        ("archives", "test", 4817, True),  # without the noisy ones
        ("folder", "test", 140, False),  # a part of DeepLesion, or a hospital's own slices
        ("nih", "val", 4831, False),
        ("phantom", "test", 4831, False),
    ],
)
def test_published_numbers_are_of_the_whole_test_split_of_deeplesion(source, split, slices, same):
    assert is_published_set(source, split, slices) is same


def test_published_numbers_stand_beside_groups_of_the_same_name_only():
    def groups_of(edges):
        table = published_table(0.5, list(by_size(np.array([20.0]), edges)), same_data=True)
        return sorted(set(table["group"]) - {"all"})

    assert groups_of((10, 30)) == ["10-30 mm", "< 10 mm", "> 30 mm"]
    assert groups_of((3, 5)) == groups_of((15,)) == []
    assert groups_of((5, 10, 30)) == ["10-30 mm", "> 30 mm"]
    assert published_table(0.3, ["< 10 mm"], same_data=True).empty


def test_published_rows_are_marked_in_the_plotted_tables(folder, root):
    """A phantom run: all published rows are of other data, so that the plots hide them until asked."""
    evaluate(root)
    curve, sizes = pd.read_csv("metrics/froc.csv"), pd.read_csv("metrics/froc_size.csv")
    for table, methods in ((curve, set(PLOTTED_METHODS)), (sizes, {"the paper (+ attention gate)", "3DCE"})):
        published = table[table["method"] != THIS_RUN]
        assert set(published["method"]) == methods
        assert set(published["data"]) == {"other"} and set(published["split"]) == {"test"}
        assert table.loc[table["method"] == THIS_RUN, "data"].isna().all()
    change_params(folder, "evaluate", iou=0.3, size_edges_mm=[5, 20])
    evaluate(root)
    for name in ("froc", "froc_size"):
        assert set(pd.read_csv(f"metrics/{name}.csv")["method"]) == {THIS_RUN}


def test_the_names_of_the_metrics_do_not_change_with_the_overlap(folder, root):
    before = evaluate(root)
    change_params(folder, "evaluate", iou=0.3)
    after = evaluate(root)
    assert list(before["test"]) == list(after["test"])
    assert (before["test"]["iou"], after["test"]["iou"]) == (0.5, 0.3)


def test_dropped_noisy_lesions_leave_with_their_slices_and_detections(folder, root, capsys):
    """Lesion 4 is made noisy: its slice, with a hit and a false positive, goes. Lesion 5's slice stays for lesion 6."""
    lesions = read_lesions()
    write_csv("data/lesions.csv", lesions.assign(noisy=lesions["lesion"].isin([4, 5]).astype(int)))
    kept = evaluate(root)["test"]
    assert (kept["noisy"], kept["images"], kept["lesions"], kept["noisy_lesions"]) == ("keep", 2, 3, 2)
    assert "test: 3 lesions (2 of them noisy) on 2 slices" in capsys.readouterr().out
    change_params(folder, "lesions", noisy="drop")
    dropped = evaluate(root)["test"]
    assert (dropped["noisy"], dropped["images"], dropped["lesions"], dropped["detections"]) == ("drop", 1, 1, 2)
    assert dropped["sensitivity_at_16"] == 0
    assert "test: 1 lesions (noisy ones dropped) on 1 slices" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rates", "words"), [([1, 3], "By size, at 3 FPs per image (4 is not among"), ([4], "By size, at 4 FPs per image<")]
)
def test_the_size_plot_takes_the_nearest_rate_and_says_so(folder, root, rates, words):
    change_params(folder, "evaluate", fp_rates=rates)
    evaluate(root)
    text = Path("report/index.html").read_text()
    assert words in text
    assert f"sensitivity at {rates[-1]} FPs per image</text>" in text


@pytest.mark.parametrize("content", ["empty", "random", "cut", "pickled", "object", "other arrays", "other sizes"])
def test_damaged_heatmaps_end_in_one_line(folder, root, content):
    path = folder / "data/heatmaps.npz"
    whole = path.read_bytes()
    path.unlink()
    if content == "pickled":
        path.write_bytes(pickle.dumps({"heatmap": 1}))
    elif content == "object":
        np.savez(path, file_name=np.array([{}], dtype=object), heatmap=np.zeros((1, 8, 8), np.uint8))
    elif content == "other arrays":
        np.savez(path, names=np.zeros(0))
    elif content == "other sizes":
        np.savez(path, file_name=np.array(["a", "b"]), heatmap=np.zeros((1, 8, 8), np.uint8))
    else:
        random = np.random.default_rng(0).bytes(500)
        path.write_bytes({"empty": b"", "random": random, "cut": whole[: len(whole) // 2]}[content])
    with pytest.raises(UserError, match=r"heatmaps\.npz: .*run `dvc repro -f detect`") as error:
        evaluate(root)
    assert "\n" not in str(error.value)


def test_a_missing_file_of_heatmaps_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz: no such file"):
        read_heatmaps(tmp_path / "none.npz")


def test_a_report_folder_that_is_a_link_is_no_obstacle(folder, root):
    (folder / "elsewhere").mkdir()
    Path("report").symlink_to("elsewhere")
    evaluate(root)
    assert Path("report/index.html").is_file()


def test_on_a_full_disk_the_report_is_named(small_disk, monkeypatch, root):
    """So much is free that the tables fit, and the report doesn't."""
    write_small_set(small_disk)
    monkeypatch.chdir(small_disk)
    space = os.statvfs(small_disk)
    Path("filler").write_bytes(bytes(space.f_bavail * space.f_frsize - 64_000))
    with pytest.raises(SystemExit, match=r"no space left on the disk while writing report: free some"):
        run(lambda: evaluate(root))
    assert Path("metrics/froc.csv").is_file() and not list(Path().glob("*report*"))


def test_figures_need_no_backend(folder, root):
    done = subprocess.run(
        [sys.executable, "-m", "stages.evaluate"],
        capture_output=True,
        text=True,
        env={**os.environ, "MPLBACKEND": "bogus", "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    assert Path("report/index.html").is_file()


@pytest.mark.parametrize("name", ["operating_fp", "fp_rates"])
def test_rates_beyond_any_image_are_refused(folder, root, name):
    change_params(folder, "evaluate", **{name: [1e300] if name == "fp_rates" else 1e300})
    with pytest.raises(UserError, match=rf"evaluate\.{name}"):
        evaluate(root)


@pytest.mark.parametrize("found", [[], [("val", 2, HIT, 0.5)]])
def test_a_split_without_detections_finds_nothing(folder, found):
    write_found(folder / "data/detections.csv", found)
    scores = evaluated().metrics()
    assert scores["sensitivity_at_16"] == 0 == scores["average_precision"] == scores["strict_sensitivity_at_16"]
    assert scores["threshold_at_16"] is None


def test_a_split_without_lesions_or_slices_has_no_numbers(folder):
    lesions = read_lesions()
    write_csv("data/lesions.csv", lesions[lesions["split"] != "test"])
    scores = evaluated().metrics()
    assert (scores["images"], scores["lesions"], scores["sensitivity_at_1"], scores["average_precision"]) == (
        2,
        0,
        None,
        None,
    )
    write_found(folder / "data/detections.csv", [])
    index = pd.read_csv("data/slices/01.csv")
    write_csv("data/slices/01.csv", index[index["split"] != "test"])
    assert evaluated().metrics()["sensitivity_at_1"] is None
    json.dumps(evaluated().metrics(), allow_nan=False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.9", "nan", r"detections.csv: line 3: score = 'nan', expected a finite number"),
        ("0.9", "inf", r"line 3: score = 'inf', expected a finite number"),
        ("0.9", "high", r"line 3: score = 'high', expected a finite number"),
        ("0.9", "", r"line 3: score = nan, expected a number"),
        (",0,40,9,49", ",0,40,-1,49", r"line 3: x2_original_px = -1.0, expected x1_original_px or more"),
        (",0,40,9,49", ",0,40,9,39", r"line 3: y2_original_px = 39.0, expected y1_original_px or more"),
        (",0,40,9,49", ",0,40,1e300,49", r"line 3: x2_original_px = 1e\+300, expected a place in a slice"),
        (",0,40,9,49,0.9", ",0,40,9", r"line 3: has 5 of 7 fields; cut short\?"),
        ("score", "probability", r"column score is missing"),
        (NAMES[4], "000099_01_01_010.png", r"line 3: file_name '000099_01_01_010.png' is no slice of split test"),
    ],
)
def test_wrong_detections_are_named(folder, old, new, message):
    path = folder / "data/detections.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        evaluated()


@pytest.mark.parametrize("lost", [1, 3])
def test_detections_that_are_cut_short_are_refused(folder, lost):
    """Half a number is a number: without the end of its line none can be trusted."""
    path = folder / "data/detections.csv"
    write_found(path, [("test", 4, HIT, 0.125)])
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(UserError) as caught:
        read_detections(path)
    assert str(caught.value) == f"{path}: line 2: has no end; cut short?; run `dvc repro -f detect`"


def test_other_wrong_inputs_are_named(folder, root):
    path = folder / "data/detections.csv"
    write_found(path, [*FOUND, ("train", 0, MISS, 0.5)])
    with pytest.raises(UserError, match=r"split 'train' is not in detect\.splits"):
        evaluate(root)
    for content, message in {
        "": "is empty",
        "\0\1\2": "line 1: has no end",
        "a,b\n1,2,3,4\n": "column split is missing",
        path.read_text() + "test,a,b\n": "has 3 of 7 fields",
    }.items():
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            read_detections(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        read_detections(path)
    index, lesions = pd.read_csv("data/slices/01.csv"), read_lesions()
    with pytest.raises(UserError, match=r"file_name 000005_01_01_010\.png occurs twice"):
        truth_of_split(pd.concat([index, index.iloc[[4]]]), lesions, "test")
    with pytest.raises(UserError, match="not in data/slices"):
        truth_of_split(index.iloc[:5], lesions, "test")
