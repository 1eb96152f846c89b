"""DL_info.csv: every fault is one clear line, every repair is counted, and the numbers are right."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesionpipe.core.errors import UserError
from lesionpipe.core.formats import write_csv
from lesionpipe.data.stored.schema import BOX, COLUMNS, RECIST, counted_lesions, read_lesions, read_part_lesions
from lesionpipe.lesions.checks import compare_with_published, counts_as_text, key_slices, usable_lesions
from lesionpipe.lesions.dl_info import read_dl_info

# A lesion whose numbers are easy: points 10 px apart along x and 4 along y, box = extent +- 5, spacing 0.5 mm
ROW = {
    "File_name": "000001_01_01_109.png",
    "Patient_index": "1",
    "Study_index": "1",
    "Series_ID": "1",
    "Key_slice_index": "109",
    "Measurement_coordinates": "101, 52, 111, 52, 106, 50, 106, 54",
    "Bounding_boxes": "96, 45, 116, 59",
    "Lesion_diameters_Pixel_": "10, 4",
    "Normalized_lesion_location": "0.4, 0.3, 0.4",
    "Coarse_lesion_type": "4",
    "Possibly_noisy": "0",
    "Slice_range": "103, 115",
    "Spacing_mm_px_": "0.5, 0.5, 5",
    "Image_size": "512, 512",
    "DICOM_windows": "-175, 275",
    "Patient_gender": "F",
    "Patient_age": "62.0",
    "Train_Val_Test": "3",
}


def text_of(*rows: dict, **changes: str) -> str:
    """A DL_info.csv of these rows, each ROW with changes."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(ROW | changes), lineterminator="\n")
    writer.writeheader()
    writer.writerows([ROW | changes | row for row in rows] or [ROW | changes])
    return out.getvalue()


def read(folder: Path, text: str | bytes) -> pd.DataFrame:
    path = folder / "DL_info.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_dl_info(path)


def lesions_of(folder: Path, *rows: dict) -> tuple[pd.DataFrame, dict]:
    return usable(read(folder, text_of(*rows)))


def usable(table: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    """The usable lesions where all slices are there, in one part."""
    return usable_lesions(table, table[["file_name"]].drop_duplicates().assign(part="07"))


def test_one_lesion_by_hand(tmp_path):
    lesions, counts = lesions_of(tmp_path, {})
    assert lesions.columns.tolist() == COLUMNS
    row = lesions.iloc[0]
    assert row[["lesion", "file_name", "part", "patient", "study", "series", "key_slice"]].tolist() == [
        *(1, "000001_01_01_109.png", "07", 1, 1, 1, 109)
    ]
    assert row[BOX].tolist() == [95, 44, 115, 58]  # 1-based in the file, 0-based here
    assert row[RECIST].tolist() == [100, 51, 110, 51, 105, 49, 105, 53]
    assert row[["long_diameter_mm", "short_diameter_mm", "spacing_mm", "slice_interval_mm"]].tolist() == [5, 2, 0.5, 5]
    assert row[["width_original_px", "height_original_px"]].tolist() == [512, 512]
    assert row[["window_low_hu", "window_high_hu", "slice_first", "slice_last"]].tolist() == [-175, 275, 103, 115]
    assert (row["split"], row["type"], row["noisy"]) == ("test", "liver", 0)
    assert counts["lesions"] == {"train": 0, "val": 0, "test": 1}


def test_types_are_the_official_ones(tmp_path):
    names = ["bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis", "unknown", "unknown"]
    rows = [
        {"Coarse_lesion_type": kind, "Bounding_boxes": f"{i}, 1, 50, 50"}
        for i, kind in enumerate([*"12345678", "-1", ""])
    ]
    assert lesions_of(tmp_path, *rows)[0]["type"].tolist() == names


def test_empty_fields_are_real_life(tmp_path):
    optional = [n for n in ROW if n not in ("File_name", "Train_Val_Test", "Bounding_boxes")]
    lesions, counts = lesions_of(tmp_path, dict.fromkeys(optional, ""))
    assert lesions[BOX].to_numpy().tolist() == [[95, 44, 115, 58]]
    assert lesions.drop(columns=[*COLUMNS[:9], *BOX]).isna().all(axis=None)
    assert {name: found["test"] for name, found in counts["missing"].items()} == dict.fromkeys(counts["missing"], 1)
    assert set(counts["missing"]) == {"recist", "diameters", "spacing", "slice_interval", "image_size", "noisy_flag"}


DROPPED = {
    "a box wholly outside": ({"Bounding_boxes": "520, 20, 540, 40"}, "box_outside_image"),
    "a box wholly above": ({"Bounding_boxes": "20, -30, 40, 0"}, "box_outside_image"),
    "a box without width": ({"Bounding_boxes": "20, 20, 20, 40"}, "box_degenerate"),
    "a box upside down": ({"Bounding_boxes": "20, 40, 40, 20"}, "box_degenerate"),
    "no box": ({"Bounding_boxes": ""}, "box_missing"),
    "a box of NaN": ({"Bounding_boxes": "NaN, NaN, NaN, NaN"}, "box_missing"),
}


@pytest.mark.parametrize(("change", "reason"), DROPPED.values(), ids=DROPPED.keys())
def test_a_lesion_without_a_usable_box_is_dropped_and_counted(tmp_path, change, reason):
    lesions, counts = lesions_of(tmp_path, {}, change)
    assert lesions["lesion"].tolist() == [1]
    assert {name: sum(by.values()) for name, by in counts["dropped"].items() if sum(by.values())} == {reason: 1}
    if reason == "box_missing":  # which doesn't make two rows the same lesion
        assert lesions_of(tmp_path, {}, change, change)[1]["dropped"]["box_missing"]["test"] == 2
    assert f"dropped, {reason.replace('_', ' ')}: train 0, val 0, test 1" in counts_as_text(counts)


def test_a_box_that_reaches_outside_is_cut_and_counted(tmp_path):
    outside = {"Bounding_boxes": "-4, 500, 20, 515"}
    lesions, counts = lesions_of(
        tmp_path, outside, {"Bounding_boxes": "500, -2, 520, 30"}, {"Bounding_boxes": "1, 1, 512, 512"}
    )
    assert lesions[BOX].to_numpy().tolist() == [[0, 499, 19, 511], [499, 0, 511, 29], [0, 0, 511, 511]]
    assert counts["repaired"]["box_clipped"]["test"] == 2
    lesions, _ = lesions_of(tmp_path, outside | {"Image_size": "1024, 1024"}, outside | {"Image_size": ""})
    assert lesions[BOX].to_numpy().tolist() == [[0, 499, 19, 514]]  # the second is the same box of the same slice


@pytest.mark.parametrize("spacing", ["-0.5, -0.5, 5", "0, 0, 5", "0.5, -0.5, 5", "1e-310, 0.5, 5"])
def test_a_spacing_that_is_not_positive_becomes_unknown(tmp_path, spacing):
    lesions, counts = lesions_of(tmp_path, {"Spacing_mm_px_": spacing})
    assert lesions[["long_diameter_mm", "short_diameter_mm", "spacing_mm"]].isna().all(axis=None)
    assert lesions["slice_interval_mm"].tolist() == [5]
    assert counts["repaired"]["spacing_not_positive"]["test"] == counts["missing"]["spacing"]["test"] == 1


@pytest.mark.parametrize(("interval", "repaired"), [("-2", 1), ("0", 1), ("1e-310", 1), ("NaN", 0)])
def test_a_useless_slice_interval_becomes_unknown(tmp_path, interval, repaired):
    lesions, counts = lesions_of(tmp_path, {"Spacing_mm_px_": f"0.5, 0.5, {interval}"})
    assert lesions["slice_interval_mm"].isna().all() and lesions["long_diameter_mm"].tolist() == [5]
    assert counts["repaired"]["slice_interval_not_positive"]["test"] == repaired
    assert counts["missing"]["slice_interval"]["test"] == 1


@pytest.mark.parametrize(("diameters", "known"), [("10, -4", [5, None]), ("0, 4", [None, 2]), ("-1, -1", [None, None])])
def test_a_diameter_that_is_not_positive_becomes_unknown(tmp_path, diameters, known):
    lesions, counts = lesions_of(tmp_path, {"Lesion_diameters_Pixel_": diameters})
    found = lesions[["long_diameter_mm", "short_diameter_mm"]]
    assert found.astype(object).where(found.notna(), None).to_numpy().tolist() == [known]
    assert counts["repaired"]["diameter_not_positive"]["test"] == counts["missing"]["diameters"]["test"] == 1
    assert "repaired, diameter not positive: train 0, val 0, test 1" in counts_as_text(counts)


def test_two_rows_for_one_lesion_count_once_but_two_lesions_on_a_slice_are_fine(tmp_path):
    lesions, counts = lesions_of(tmp_path, {}, {}, {"Bounding_boxes": "200, 200, 220, 230"})
    assert lesions["lesion"].tolist() == [1, 3]
    assert counts["dropped"]["duplicate"]["test"] == 1
    assert counts["key_slices"]["test"] == 1


def test_noisy_lesions_are_kept_and_counted(tmp_path):
    """Slice 109 has a noisy lesion and a sound one, slice 110 a noisy one alone."""
    noisy = {"Possibly_noisy": "1", "Bounding_boxes": "200, 200, 220, 230"}
    lesions, counts = lesions_of(tmp_path, {}, noisy, noisy | {"File_name": "000001_01_01_110.png"})
    assert lesions["noisy"].tolist() == [0, 1, 1]
    assert counts["noisy_lesions"] == {"train": 0, "val": 0, "test": 2}
    assert counts["noisy_key_slices"] == {"train": 0, "val": 0, "test": 1}
    assert "noisy lesions: train 0, val 0, test 2" in counts_as_text(counts)


def test_rows_of_absent_parts_are_left_out_and_missing_slices_dropped(tmp_path):
    table = read(
        tmp_path,
        text_of(
            {},
            {"File_name": "000001_01_01_110.png", "Key_slice_index": "110"},
            {"File_name": "000002_01_01_001.png", "Train_Val_Test": "1"},
        ),
    )
    slices = pd.DataFrame({"file_name": ["000001_01_01_109.png", "000001_01_01_108.png"], "part": "01"})
    lesions, counts = usable_lesions(table, slices)
    assert lesions["file_name"].tolist() == ["000001_01_01_109.png"]
    assert counts["left_out"]["part_absent"] == {"train": 1, "val": 0, "test": 0}
    assert counts["dropped"]["slice_missing"] == {"train": 0, "val": 0, "test": 1}
    with pytest.raises(UserError, match="no lesion lies in the slices present"):
        usable_lesions(table, slices[1:].assign(file_name="000009_01_01_001.png"))


def test_a_patient_in_two_splits_is_refused(tmp_path):
    other = {"File_name": "000001_02_01_001.png", "Train_Val_Test": "1"}
    with pytest.raises(UserError, match=r"patient 1 is in two splits \(row 1 test, row 2 train\)"):
        lesions_of(tmp_path, {}, other)


def test_the_file_name_leads_over_the_index_columns(tmp_path):
    lesions, counts = lesions_of(tmp_path, {"Patient_index": "2", "Key_slice_index": "3"})
    assert lesions[["patient", "key_slice"]].to_numpy().tolist() == [[1, 109]]
    assert counts["repaired"]["indices_from_file_name"]["test"] == 1


def test_key_slices_appear_once_with_what_any_lesion_knows(tmp_path):
    rows = [
        {"Bounding_boxes": "1, 1, 9, 9", "Spacing_mm_px_": ""},
        {"Bounding_boxes": "2, 2, 9, 9"},
        {"File_name": "000001_01_01_020.png"},
    ]
    lesions, _ = lesions_of(tmp_path, *rows)
    table = key_slices(lesions)
    assert table["file_name"].tolist() == ["000001_01_01_020.png", "000001_01_01_109.png"]
    assert table["slice_interval_mm"].tolist() == [5, 5]
    assert key_slices(lesions.iloc[:0]).empty


def test_lesions_survive_the_file(tmp_path):
    lesions, _ = lesions_of(tmp_path, {}, {"Measurement_coordinates": "", "Bounding_boxes": "1.25, 1, 20, 30"})
    write_csv(tmp_path / "lesions.csv", lesions)
    pd.testing.assert_frame_equal(read_lesions(tmp_path / "lesions.csv"), lesions, check_dtype=False)
    assert read_lesions(tmp_path / "lesions.csv")["part"].tolist() == ["07", "07"]
    (tmp_path / "lesions.csv").write_text("lesion,part\n1,01\n")
    with pytest.raises(UserError, match=r"lesions.csv: .*file_name"):
        read_lesions(tmp_path / "lesions.csv")


FAULTS = {
    "empty": ("", "is empty"),
    "only a header": (text_of().splitlines()[0] + "\n", "a header and no lesion"),
    "a column is missing": (text_of().replace("Bounding_boxes", "Boxes"), "line 1: lacks the column Bounding_boxes"),
    "a column is twice there": (text_of().replace("Patient_gender", "Image_size"), "line 1: has a column twice"),
    "not a number": (
        text_of({}, {"Bounding_boxes": "96, 4x, 116, 59"}),
        "line 3: Bounding_boxes = '4x', expected a number",
    ),
    "infinite": (text_of(Bounding_boxes="96, 1e999, 116, 59"), "line 2: Bounding_boxes = '1e999', expected a number"),
    "too few numbers": (text_of(Bounding_boxes="96, 45, 116"), "Bounding_boxes = '96, 45, 116', expected 4 numbers"),
    "an impossible split": (text_of(Train_Val_Test="4"), "Train_Val_Test = '4', expected one of 1, 2, 3"),
    "no split": (text_of(Train_Val_Test=""), "line 2: Train_Val_Test = '', expected"),
    "an unknown type": (text_of(Coarse_lesion_type="9"), "Coarse_lesion_type = '9', expected one of -1, 1"),
    "a huge side": (text_of(Image_size="1e300, 512"), "Image_size = '1e300', expected a number up to 1,000,000"),
    "a huge spacing": (text_of(Spacing_mm_px_="1, 1, 1e300"), "Spacing_mm_px_ = '1e300', expected a number up to"),
    "half a pixel": (text_of(Image_size="512.5, 512"), "Image_size = '512.5, 512', expected whole numbers"),
    "an image of no size": (text_of(Image_size="0, 512"), "Image_size = '0, 512', expected width and height"),
    "a strange name": (text_of(File_name="../../x.png"), "line 2: File_name = '../../x.png', expected a name like"),
    "a row cut short": (text_of() + "000001_01_01_110.png,1,1\n", "line 3: has 3 fields, the header has 18"),
    "an open quote": (text_of() + '000001_01_01_110.png,1,1,1,110,"1, 2', "unexpected end of data"),
    "not text": (b"\xff\xfe\x00F", "not UTF-8 text"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_faulty_file_ends_in_one_clear_line(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value) and "DL_info.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_the_rows_of_several_files_are_numbered_through(tmp_path):
    for name, slice_number in (("a", "109"), ("b", "110")):
        (tmp_path / name).mkdir()
        read(
            tmp_path / name,
            text_of(
                {"File_name": f"000001_01_01_{slice_number}.png"}, {"File_name": f"000001_01_01_{slice_number}.png"}
            ),
        )
    table = read_dl_info(tmp_path / "a" / "DL_info.csv", tmp_path / "b" / "DL_info.csv")
    assert table["lesion"].tolist() == [1, 2, 3, 4]
    assert table["key_slice"].tolist() == [109, 109, 110, 110]


def test_line_numbers_count_blank_lines(tmp_path):
    head, row = text_of().splitlines()
    with pytest.raises(UserError, match="line 5: Train_Val_Test = 'x'"):
        read(tmp_path, "\n".join([head, row, "", "", row[:-1] + "x"]))


numbers = st.floats(-1000, 1000, allow_nan=False).map(lambda value: round(value, 4))
maybe_nan = st.one_of(numbers, st.just(math.nan))


@st.composite
def rows(draw) -> dict:
    """A row of any values that are allowed, with the numbers that should be read from it."""

    def field(count: int) -> tuple[str, list[float]]:
        values = draw(st.lists(maybe_nan, min_size=count, max_size=count))
        blank = draw(st.booleans())
        separator = draw(st.sampled_from([",", ", ", " , "]))
        text = "" if blank else separator.join("NaN" if math.isnan(v) else str(v) for v in values)
        return text, [math.nan] * count if blank else values

    indices = [draw(st.integers(1, limit)) for limit in (999999, 99, 99, 999)]
    name = "{:06d}_{:02d}_{:02d}_{:03d}.png".format(*indices)
    texts, values = {"File_name": name}, {}
    for column, names in {
        "Measurement_coordinates": [f"recist_{axis}{point}" for point in "1234" for axis in "xy"],
        "Bounding_boxes": ["x1", "y1", "x2", "y2"],
        "Spacing_mm_px_": ["spacing_x_mm", "spacing_y_mm", "slice_interval_mm"],
        "DICOM_windows": ["window_low_hu", "window_high_hu"],
    }.items():
        texts[column], found = field(len(names))
        values |= dict(zip(names, found, strict=True))
    values |= {"file_name": name, "patient": indices[0], "key_slice": indices[3]}
    return {"texts": texts, "values": values}


@settings(max_examples=60, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=5), st.booleans(), st.booleans(), st.booleans())
def test_whatever_is_written_is_read_back(tmp_path_factory, cases, bom, crlf, extra):
    text = text_of(*(case["texts"] for case in cases), **({"Remark": "extra, and ignored"} if extra else {}))
    text = text.replace("\n", "\r\n") if crlf else text
    table = read(tmp_path_factory.mktemp("dl"), (b"\xef\xbb\xbf" if bom else b"") + text.encode())
    expected = pd.DataFrame([case["values"] for case in cases])
    pd.testing.assert_frame_equal(table[expected.columns], expected, check_dtype=False)


def test_the_reconstructed_table_has_the_published_counts(shared_data):
    table = read_dl_info(shared_data / "deeplesion" / "DL_info_reconstructed.csv")
    lesions, counts = usable(table)
    assert counts["lesions"] == {"train": 22515, "val": 4889, "test": 4927}
    assert counts["key_slices"] == {"train": 22496, "val": 4793, "test": 4831}
    assert sum(counts["patients"].values()) == 4427
    assert counts["noisy_lesions"] == {"train": 0, "val": 2, "test": 15}
    assert sum(counts["missing"]["recist"].values()) == 32331 - 6819
    assert counts["missing"]["spacing"] == {"train": 22515 - 1041, "val": 0, "test": 0}
    assert not any(sum(by.values()) for by in counts["dropped"].values())
    assert (lesions[BOX[:2]].to_numpy() >= 0).all()
    cut = sum(counts["repaired"]["box_clipped"].values())
    boxes, points = lesions[BOX].to_numpy(), lesions[RECIST].to_numpy()
    known = ~np.isnan(points[:, 0])
    left = points[known, 0::2].min(axis=1) - 5  # a box is the extent of the points +- 5 px
    differ = ~np.isclose(boxes[known, 0], left, atol=0.051)  # some were published with one decimal
    assert cut == 5 and differ.sum() <= cut

    whole = compare_with_published(counts)
    assert whole["key_slices"] == {"found": 32120, "published": 32120}
    assert whole["patients"] == {"found": 4427, "published": 4427}
    text = counts_as_text(counts | {"whole_set": whole})
    assert "all 56 parts, lesions: 32,331 (published are 32,735)" in text
    assert "all 56 parts, key slices: 32,120 (as published)" in text


def test_without_noisy_lesions_the_published_counts_hold_as_well(shared_data):
    lesions, counts = usable(read_dl_info(shared_data / "deeplesion" / "DL_info_reconstructed.csv"))
    counted = counted_lesions(lesions, "drop").groupby("split")
    assert counted["lesion"].nunique()[["val", "test"]].tolist() == [4887, 4912]
    assert counted["file_name"].nunique()[["val", "test"]].tolist() == [4791, 4817]
    assert counts["noisy_key_slices"] == {"train": 0, "val": 2, "test": 14}


def test_metrics_are_plain_json(tmp_path):
    _, counts = lesions_of(tmp_path, {})
    assert json.loads(json.dumps(counts)) == counts


# ---- lesions.csv, damaged or half copied


@pytest.fixture
def table(tmp_path) -> Path:
    """A lesions.csv of two lesions."""
    lesions, _ = lesions_of(tmp_path, {}, {"Bounding_boxes": "200, 200, 220, 230", "Possibly_noisy": ""})
    write_csv(tmp_path / "lesions.csv", lesions)
    return tmp_path / "lesions.csv"


DAMAGES = {
    "empty": (lambda text: "", "is empty"),
    "header only": (lambda text: text.partition("\n")[0] + "\n", "has a header and no lesion"),
    "a row too short": (lambda text: text[:-40] + "\n", "line 3: has 21 of 32 fields; cut short?"),
    "cut within a row": (lambda text: text[:-40], "line 3: has no end; cut short?"),
    "cut within a field": (lambda text: text[:-2], "line 3: has no end; cut short?"),
    "a wrong split": (lambda text: text.replace("test", "tset"), "line 2: split = 'tset', expected one of train"),
    "no split": (lambda text: text.replace("test", ""), "line 2: split = '', expected some text"),
    "a patient that is no number": (
        lambda text: text.replace("07,1,", "07,p,"),
        "line 2: patient = 'p', expected a whole",
    ),
    "an endless box": (lambda text: text.replace("199", "inf"), "line 3: x1_original_px = 'inf', expected a finite"),
    "a box without a side": (
        lambda text: text.replace("95,44", ",44"),
        "line 2: x1_original_px = nan, expected a number",
    ),
    "an unknown column": (lambda text: text.replace("noisy", "noise"), "column noisy is missing"),
    "a lesion twice": (
        lambda text: text + text.splitlines()[-1] + "\n",
        "line 4: lesion = 2, expected each lesion once",
    ),
    "a column twice": (lambda text: text.replace("noisy", "split"), "column split is there twice"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_table_of_lesions_ends_in_one_line(table, damage, message):
    table.write_text(damage(table.read_text()))
    with pytest.raises(UserError) as caught:
        read_lesions(table)
    assert f"lesions.csv: {message}" in str(caught.value)
    assert str(caught.value).endswith("run `dvc repro -f lesions`") and "\n" not in str(caught.value)


def test_the_lesions_of_a_part_may_be_none_but_must_be_of_that_part(table):
    text = table.read_text()
    table.with_name("07.csv").write_text(text)
    table.with_name("08.csv").write_text(text.partition("\n")[0] + "\n")
    assert read_part_lesions("07", table.parent)["lesion"].tolist() == [1, 2]
    assert read_part_lesions("08", table.parent).empty
    table.with_name("08.csv").write_text(text)
    with pytest.raises(
        UserError, match=r"08\.csv: line 2: part = '07', expected one of 08; run `dvc repro -f lesions`"
    ):
        read_part_lesions("08", table.parent)
