"""Where DL_info.csv is taken from, and what the stage `lesions` leaves of it and clears away."""

import hashlib
import json
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from http_server import serve
from ruamel.yaml import YAML
from stage_runs import link_code, run_stage
from test_lesions import text_of

from lesionpipe.core.errors import UserError
from lesionpipe.core.hashing import checksum
from lesionpipe.data.stored.schema import read_lesions, read_part_lesions
from lesionpipe.download import http_client
from lesionpipe.download.http_client import RetryPolicy
from lesionpipe.download.inventory import Inventory, write_inventory
from lesionpipe.lesions import source as annotation_source
from lesionpipe.lesions.leftovers import remove_other_parts
from lesionpipe.lesions.source import Annotations, compare_with_official, provide_annotations

RETRIES = RetryPolicy(retries=1, timeout_s=5)
INPUTS = Path("data/inputs/annotations")
FETCHED = Path("scratch/downloads/DL_info.csv")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(http_client, "PAUSE_S", 0.01)
    monkeypatch.delenv("LESIONPIPE_SCRATCH", raising=False)
    return tmp_path


def provided(source: str, path: object = None, given: object = None, urls: tuple[str, ...] = ()) -> Annotations:
    path, given = (None if value is None else str(value) for value in (path, given))
    return provide_annotations(source, ("01",), path, given, urls, RETRIES)


def test_addresses_are_tried_in_turn(elsewhere, capsys):
    good = text_of().encode()
    with serve(b"", "status 404") as gone, serve(b"", "page") as page, serve(good, "status 503") as right:
        found = provided("nih", urls=(gone.url, page.url, right.url))
    assert [path.read_bytes() for path in found.paths] == [good]
    assert found.md5 == hashlib.md5(good).hexdigest()
    printed = capsys.readouterr()
    assert f"annotations: DL_info.csv fetched, MD5 {found.md5}" in printed.out
    assert "HTTP 404" in printed.err and "something else than DL_info.csv" in printed.err
    assert f"warning: {FETCHED} is not the official DL_info.csv: {len(good):,} bytes" in printed.err


def test_when_no_address_has_it_each_failure_is_named(elsewhere):
    with serve(b"", "status 404") as gone, pytest.raises(UserError, match=r"HTTP 404.*data/inputs/annotations"):
        provided("nih", urls=(gone.url,))
    with pytest.raises(UserError, match="annotation_urls is empty"):
        provided("nih")


def test_the_official_file_raises_no_warning_and_is_fetched_once(elsewhere, monkeypatch, capsys):
    content = text_of().encode()
    monkeypatch.setattr(annotation_source, "OFFICIAL_BYTES", len(content))
    monkeypatch.setattr(annotation_source, "OFFICIAL_SHA256", hashlib.sha256(content).hexdigest())
    with serve(content) as server:
        for _ in range(2):
            provided("nih", urls=(server.url,))
        assert len(server.ranges) == 1
    assert compare_with_official(FETCHED) is None
    assert "warning" not in capsys.readouterr().err


def test_the_file_beside_the_slices_is_used(elsewhere, capsys):
    (elsewhere / "Images_png").mkdir()
    with pytest.raises(UserError, match=r"no DL_info.csv in or beside .*data/inputs/annotations"):
        provided("folder", elsewhere)
    (elsewhere / "DL_info.csv").write_text(text_of())
    for source in ("folder", "archives"):
        found = provided(source, elsewhere)
        assert (found.paths, found.name) == ((elsewhere / "DL_info.csv",), "DL_info.csv beside the slices")
    assert "is not the official DL_info.csv" in capsys.readouterr().err


def test_a_given_file_must_lie_where_its_content_is_tracked(elsewhere):
    INPUTS.mkdir(parents=True)
    mine = elsewhere / "mine.csv"
    mine.write_text(text_of())
    with pytest.raises(UserError) as caught:
        provided("nih", given="mine.csv")
    assert str(caught.value) == (
        f"dataset.annotations: {mine} lies outside data/inputs/annotations, where DVC notices changes; copy or link "
        "the file into it: dataset.annotations: data/inputs/annotations/mine.csv"
    )
    for outside in (mine, "data/inputs/annotations/../../../mine.csv", "data/inputs/annotations-2/mine.csv"):
        with pytest.raises(UserError, match="lies outside data/inputs/annotations"):
            provided("nih", given=outside)
    with pytest.raises(UserError, match=r"data/inputs/annotations/mine\.csv: no such file"):
        provided("nih", given=INPUTS / "mine.csv")
    (INPUTS / "mine.csv").symlink_to(mine)
    for inside in (INPUTS / "mine.csv", (INPUTS / "mine.csv").absolute()):
        found = provided("nih", given=inside)
        assert (found.md5, found.name) == (checksum(mine), str(inside))


def test_the_phantoms_parts_are_one_table_and_raise_no_warning(elsewhere, capsys):
    for part, split in (("02", "1"), ("01", "3")):
        Path("data/phantom", part).mkdir(parents=True)
        Path("data/phantom", part, "DL_info.csv").write_text(text_of(Train_Val_Test=split))
    found = provide_annotations("phantom", ("02", "01"), None, None, [], RETRIES)
    assert [path.parent.name for path in found.paths] == ["01", "02"]
    head, row = text_of().splitlines()
    assert found.md5 == hashlib.md5("\n".join([head, row, row[:-1] + "1", ""]).encode()).hexdigest()
    assert capsys.readouterr().err == ""


def test_a_part_of_the_phantom_without_a_table_is_named_with_its_remedy(elsewhere):
    Path("data/phantom/01").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^data/phantom/01/DL_info\.csv: no such file; run `dvc repro phantom`$"):
        provided("phantom")


# ---- what parts that are no longer asked for left behind


def test_only_what_other_parts_left_is_removed(elsewhere):
    slices, masks = Path("data/slices"), Path("data/masks")
    kept = ["003.npy", ".03.npy.1.partial", "01.csv", "01.npy", "02.csv", "02.npy", "3.csv", "notes.txt"]
    slices.mkdir(parents=True)
    for name in (*kept, "03.npy"):
        (slices / name).write_text(name)
    for part in ("01", "03"):
        (masks / part).mkdir(parents=True)
        (masks / part / "held.csv").write_text(part)
    (masks / "04").symlink_to(slices.absolute())
    remove_other_parts(["01", "02"])
    assert sorted(path.name for path in slices.iterdir()) == sorted(kept)
    assert [path.name for path in masks.iterdir()] == ["01"]


# ---- the stage, as DVC runs it


@pytest.fixture
def checkout(root, tmp_path) -> Path:
    """A checkout where the phantom's parts 01 and 02 and their inventories lie ready, and leftovers of a part 03."""
    link_code(root, tmp_path)
    set_parameters(root, tmp_path)
    names = {"01": ["000001_01_01_109", "000001_01_01_110"], "02": ["000002_01_01_001"], "03": ["000003_01_01_001"]}
    for part, files in names.items():
        rows = [{"File_name": f"{file}.png", "Possibly_noisy": str(int(file.endswith("110")))} for file in files]
        for folder in ("phantom", "inventory", "slices", "masks"):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        if part != "03":  # the stage `phantom` leaves nothing of other parts
            (tmp_path / "data/phantom" / part).mkdir()
            (tmp_path / "data/phantom" / part / "DL_info.csv").write_text(text_of(*rows))
        listed = {f"{file}.png": (1, 0) for file in files}
        inventory = Inventory(f"Images_png_{part}.zip", listed, archive_bytes=1, archive_md5="0" * 32)
        write_inventory(tmp_path / "data/inventory" / f"{part}.csv", inventory)
        (tmp_path / "data/slices" / f"{part}.npy").write_text(part)
        (tmp_path / "data/masks" / f"{part}.npz").write_text(part)
    return tmp_path


def set_parameters(root: Path, folder: Path, **lesions: str) -> None:
    params = YAML().load(root / "params.yaml")
    params["dataset"]["parts"] = ["01", "02"]
    params["lesions"].update(lesions)
    YAML().dump(params, folder / "params.yaml")


def outputs(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_stage_leaves_the_lesions_of_each_part_and_clears_away_what_other_parts_left(checkout):
    done = run_stage(checkout, "lesions")
    assert done.returncode == 0, done.stderr
    lesions = read_lesions(checkout / "data/lesions.csv")
    assert lesions["file_name"].str[:16].tolist() == ["000001_01_01_109", "000001_01_01_110", "000002_01_01_001"]
    assert lesions["noisy"].tolist() == [0, 1, 0]
    assert read_part_lesions("01", checkout / "data/lesions_by_part")["lesion"].tolist() == [1, 2]
    assert read_part_lesions("02", checkout / "data/lesions_by_part")["lesion"].tolist() == [3]
    assert sorted(path.name for path in (checkout / "data/key_slices").iterdir()) == ["01.csv", "02.csv"]
    assert not list((checkout / "data").rglob("03*"))
    counts = json.loads((checkout / "metrics/lesions.json").read_text())
    assert counts["lesions"] == {"train": 0, "val": 0, "test": 3}
    assert counts["noisy_lesions"] == {"train": 0, "val": 0, "test": 1}
    assert counts["annotations"]["file"] == "DL_info.csv of the phantom"
    assert f"MD5 {counts['annotations']['md5']}" in done.stdout
    assert "whole_set" not in counts


def whole_set(root: Path, folder: Path, parts: int, text: str) -> subprocess.CompletedProcess:
    """The stage on so many parts of NIH's archives that hold all slices of a DL_info.csv."""
    link_code(root, folder)
    params = YAML().load(root / "params.yaml")
    numbers = [f"{part:02d}" for part in range(1, parts + 1)]
    params["dataset"].update(source="nih", parts=numbers, annotations="data/inputs/annotations/mine.csv")
    YAML().dump(params, folder / "params.yaml")
    (folder / "data/inputs/annotations").mkdir(parents=True)
    (folder / "data/inputs/annotations/mine.csv").write_text(text)
    (folder / "data/inventory").mkdir()
    names = sorted({line.split(",", 1)[0] for line in text.splitlines()[1:]})
    for place, part in enumerate(numbers):
        listed = dict.fromkeys(names[place::parts], (1, 0))
        inventory = Inventory(f"Images_png_{part}.zip", listed, archive_bytes=1, archive_md5="0" * 32)
        write_inventory(folder / "data/inventory" / f"{part}.csv", inventory)
    done = run_stage(folder, "lesions")
    assert done.returncode == 0, done.stderr
    return done


def test_with_all_56_parts_the_totals_are_compared_with_the_published_ones(root, tmp_path):
    text = text_of(*({"File_name": f"{n:06d}_01_01_109.png", "Patient_index": str(n)} for n in range(1, 61)))
    for parts, told in ((55, False), (56, True)):
        (folder := tmp_path / str(parts)).mkdir()
        printed = whole_set(root, folder, parts, text).stdout
        assert ("all 56 parts, lesions: 60 (published are 32,735)" in printed) == told
        assert ("whole_set" in json.loads((folder / "metrics/lesions.json").read_text())) == told


def test_the_totals_of_the_reconstructed_table_are_told_by_the_stage(root, tmp_path, shared_data):
    text = (shared_data / "deeplesion" / "DL_info_reconstructed.csv").read_text()
    assert whole_set(root, tmp_path, 56, text).stdout.splitlines()[-3:] == [
        "all 56 parts, lesions: 32,331 (published are 32,735)",  # the reconstruction lacks 404
        "all 56 parts, key slices: 32,120 (as published)",
        "all 56 parts, patients: 4,427 (as published)",
    ]
    parts = [read_part_lesions(f"{part:02d}", tmp_path / "data/lesions_by_part") for part in range(1, 57)]
    pd.testing.assert_frame_equal(
        pd.concat(parts).sort_values("lesion", ignore_index=True), read_lesions(tmp_path / "data/lesions.csv")
    )


def test_switching_noisy_lesions_changes_nothing_that_preprocess_reads(checkout, root):
    """So that no archive, which may be deleted by then, is needed again."""
    run_stage(checkout, "lesions")
    before = outputs(checkout / "data")
    set_parameters(root, checkout, noisy="drop")
    assert run_stage(checkout, "lesions").returncode == 0
    assert outputs(checkout / "data") == before
