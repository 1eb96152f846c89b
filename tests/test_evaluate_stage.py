"""The stage `evaluate` on a set whose numbers can be counted, and on what may be wrong with its inputs."""

import csv
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dvc_render.vega import VegaRenderer
from small_set import FOUND, HIT, MISS, NAMES, write_found, write_small_set

from lesionpipe.core.errors import UserError
from lesionpipe.core.formats import write_csv
from lesionpipe.data.detections import read_detections
from lesionpipe.data.schema import read_lesions
from lesionpipe.evaluate.published import FROC, RATES, SIZES
from lesionpipe.evaluate.split import evaluate_split
from lesionpipe.evaluate.strata import by_interval, by_size, by_type
from lesionpipe.evaluate.tables import curve_rates
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
    params = load_params()
    index = pd.read_csv("data/slices/01.csv")
    found = read_detections("data/detections.csv")
    return evaluate_split(split, index, read_lesions(), found, params.evaluate)


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
    assert scores["map_50"] == pytest.approx(
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
    groups = {name: mask.nonzero()[0].tolist() for name, mask in by_size(lesions, (10, 30)).items()}
    assert groups == {"< 10 mm": [0], "10-30 mm": [1, 2], "> 30 mm": [3], "unknown": [4]}
    assert [int(mask.sum()) for mask in by_type(lesions).values()] == [0, 0, 0, 0, 5, 0, 0, 0]
    assert [int(mask.sum()) for mask in by_interval(lesions).values()] == [0, 5]


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
    table = result.curve if rows == "curve" else result.groups[rows]
    points = [{**row, "rev": "workspace"} for row in csv.DictReader(table.to_csv(index=False).splitlines())]
    renderer = VegaRenderer(
        points, "plot", template=template, template_dir=str(root / ".dvc/plots"), x=x, y="sensitivity"
    )
    filled = json.dumps(renderer.get_filled_template())
    assert "<DVC_METRIC" not in filled
    used = set(re.findall(r"datum\[?'?\.?(\w+)", filled)) - {"split", "x"}
    assert used <= {*table.columns, "x"} and {"sensitivity", "low", "high"} <= used


def test_published_points_of_the_plot_are_those_of_the_package(root):
    layers = json.loads((root / ".dvc/plots/froc.json").read_text())["layer"]
    points = [point for layer in layers for point in layer.get("data", {}).get("values", [])]
    assert len(points) == 4 * len(RATES)
    for point in points:
        assert FROC[point["method"]][RATES.index(point["fps"])] == pytest.approx(100 * point["found"])
    assert SIZES["the paper"] == (88.35, 91.73, 93.02) and FROC["3DCE"][3] == 85.65


def test_published_sizes_of_the_plot_are_those_of_the_package(root):
    template = json.loads((root / ".dvc/plots/groups.json").read_text())
    layer = next(layer for layer in template["layer"] if "data" in layer)
    lesions = pd.DataFrame({"long_diameter_mm": [20.0]})
    groups = list(by_size(lesions, load_params(root / "presets/deeplesion.yaml").evaluate.size_edges_mm))
    expected = [(m, g, v) for m, values in SIZES.items() for g, v in zip(groups, values, strict=True)]
    points = [(p["method"], p["group"], pytest.approx(100 * p["found"])) for p in layer["data"]["values"]]
    assert expected == points
    assert "'Sensitivity by size'" in layer["transform"][0]["filter"]  # the template also draws types and intervals
    assert "title: Sensitivity by size\n" in (root / "dvc.yaml").read_text()


@pytest.mark.parametrize("found", [[], [("val", 2, HIT, 0.5)]])
def test_a_split_without_detections_finds_nothing(folder, found):
    write_found(folder / "data/detections.csv", found)
    scores = evaluated().metrics()
    assert scores["sensitivity_at_16"] == 0 == scores["map_50"] == scores["strict_sensitivity_at_16"]
    assert scores["threshold_at_16"] is None


def test_a_split_without_lesions_or_slices_has_no_numbers(folder):
    lesions = read_lesions()
    write_csv("data/lesions.csv", lesions[lesions["split"] != "test"])
    scores = evaluated().metrics()
    assert (scores["images"], scores["lesions"], scores["sensitivity_at_1"], scores["map_50"]) == (2, 0, None, None)
    write_found(folder / "data/detections.csv", [])
    index = pd.read_csv("data/slices/01.csv")
    write_csv("data/slices/01.csv", index[index["split"] != "test"])
    assert evaluated().metrics()["sensitivity_at_1"] is None
    json.dumps(evaluated().metrics(), allow_nan=False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.9", "nan", r"detections.csv: line 3: score = 'nan' is not a finite number"),
        ("0.9", "inf", r"line 3: score = 'inf' is not a finite number"),
        ("0.9", "high", r"line 3: score = 'high' is not a finite number"),
        ("0.9", "", r"line 3: score = '' is not a finite number"),
        (",0,40,9,49", ",0,40,-1,49", r"line 3: x2_original_px = -1.0 is less than x1_original_px = 0.0"),
        (",0,40,9,49", ",0,40,9,39", r"line 3: y2_original_px = 39.0 is less than y1_original_px = 40.0"),
        (",0,40,9,49", ",0,40,1e300,49", r"line 3: x2_original_px = 1e\+300 is no place in a slice"),
        (",0,40,9,49,0.9", ",0,40,9", r"line 3: y2_original_px = '' is not a finite number"),
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


def test_other_wrong_inputs_are_named(folder, root):
    path = folder / "data/detections.csv"
    write_found(path, [*FOUND, ("train", 0, MISS, 0.5)])
    with pytest.raises(UserError, match=r"split 'train' is not in detect\.splits"):
        evaluate(root)
    for content in ("", "\0\1\2", "a,b\n1,2,3,4\n", "a,b\n1,2\n1,2,3\n"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"not a CSV table|column .* is missing|more fields than the header"):
            read_detections(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        read_detections(path)
    index, lesions = pd.read_csv("data/slices/01.csv"), read_lesions()
    with pytest.raises(UserError, match=r"file_name 000005_01_01_010\.png occurs twice"):
        truth_of_split(pd.concat([index, index.iloc[[4]]]), lesions, "test")
    with pytest.raises(UserError, match="lesion 4 occurs twice"):
        truth_of_split(index, pd.concat([lesions, lesions.iloc[[3]]]), "test")
    with pytest.raises(UserError, match="not in data/slices"):
        truth_of_split(index.iloc[:5], lesions, "test")
