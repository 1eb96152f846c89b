"""Every form in which DeepLesion lies somewhere becomes the same part; DVC notices changes and keeps nothing twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from http_server import serve
from ruamel.yaml import YAML

from lesionpipe.commands.drop import drop
from lesionpipe.commands.fetch import fetch
from lesionpipe.core.errors import UserError
from lesionpipe.core.hashing import checksum
from lesionpipe.download import inventory, sources
from lesionpipe.download.archives import COLUMNS, images_of
from lesionpipe.download.inventory import list_folder, list_zip, read_inventories
from lesionpipe.download.transfer import Patience
from lesionpipe.params import Dataset, Phantom

PATIENCE = Patience(retries=1, timeout_s=5, downloads=1)
DRAWING = Phantom(seed=0, patients_per_part=3, key_slices_per_patient=1, image_size=64)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LESIONPIPE_SCRATCH", raising=False)


def write_zip(path: Path, names: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * len(name))
    return path


def dataset(source: str, **changes) -> Dataset:
    known = {"parts": ["01"], "path": None, "annotations": None, "watch": [], "listing": "table.tsv"}
    return Dataset.model_validate({"source": source, **known, **changes})


def write_table(path: str, archives: list[tuple[Path, str]]) -> None:
    rows = [(file.name, url, file.stat().st_size, checksum(file), "") for file, url in archives]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(path, sep="\t", index=False)


def write_params(root: Path, **changes) -> None:
    """The phantom's params.yaml, with changes in `dataset`, a tiny phantom and small slices."""
    yaml = YAML()
    params = yaml.load((root / "presets" / "phantom.yaml").read_text())
    params["phantom"].update(DRAWING.model_dump())
    params["preprocess"].update(image_size=64)
    params["dataset"].update(changes)
    yaml.dump(params, Path("params.yaml"))


def provide(part: str, data: Dataset) -> None:
    sources.provide(part, data, DRAWING, PATIENCE, workers=1)


def test_the_inventory_of_a_zip_names_its_slices_and_nothing_else(tmp_path):
    names = ["Images_png/000001_01_01/109.png", "000002_01_01/007.png", "Images_png/", "__MACOSX/._109.png", "a.txt"]
    found = list_zip(write_zip(tmp_path / "a.zip", names))
    assert found.to_dict("list") == {"file_name": ["000001_01_01_109.png", "000002_01_01_007.png"], "bytes": [31, 20]}


@pytest.mark.parametrize("name", ["../../x", "/etc/x.png", "Images_png/../../000001_01_01/001.png", "..\\..\\x"])
def test_a_member_that_leads_outside_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"a\.zip: member .* leads outside"):
        list_zip(write_zip(tmp_path / "a.zip", ["Images_png/000001_01_01/109.png", name]))


def test_a_truncated_zip_and_one_without_slices_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", ["Images_png/000001_01_01/109.png"])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"a\.zip: not a whole zip archive"):
        list_zip(path)
    with pytest.raises(UserError, match=r"b\.zip: holds no slice"):
        list_zip(write_zip(tmp_path / "b.zip", ["readme.txt"]))


def make_folder(root: Path, series: int) -> Path:
    for number in range(1, series + 1):
        folder = root / "Images_png" / f"{number:06d}_01_01"
        folder.mkdir(parents=True)
        (folder / "001.png").write_bytes(b"abc")
        (folder / "notes.txt").write_bytes(b"")
    (root / "DL_info.csv").write_text("File_name\n")
    return root


def test_an_extracted_folder_is_dealt_out_evenly_and_in_order(tmp_path):
    listing = list_folder(make_folder(tmp_path, 5), ["01", "02"])
    assert listing["file_name"].tolist() == [*(f"00000{n}_01_01_001.png" for n in range(1, 6)), "DL_info.csv"]
    assert listing["part"].tolist() == ["01", "01", "01", "02", "02", ""]
    assert listing["bytes"].tolist() == [3, 3, 3, 3, 3, 10]
    with pytest.raises(UserError, match="6 parts for 5 series"):
        list_folder(tmp_path, [f"{n:02d}" for n in range(1, 7)])


def test_an_extracted_folder_is_read_in_place(tmp_path):
    root = make_folder(tmp_path / "given", 2)
    data = dataset("folder", path=str(root), watch=["folder"], listing="data/listing.csv", parts=["01", "02"])
    with pytest.raises(UserError, match="is no listing of a folder"):
        provide("01", data)
    inventory.write_csv("data/listing.csv", list_folder(data.path, data.parts))
    provide("02", data)
    assert images_of("02") == root / "Images_png"
    assert pd.read_csv("data/inventory/02.csv")["file_name"].tolist() == ["000002_01_01_001.png"]
    before = Path("data/raw/02/source.json").read_bytes()
    (root / "Images_png" / "000002_01_01" / "001.png").write_bytes(b"abcd")
    inventory.write_csv("data/listing.csv", list_folder(data.path, data.parts))
    provide("02", data)
    assert Path("data/raw/02/source.json").read_bytes() != before


def test_given_archives_are_verified_and_pointed_to(tmp_path):
    path = write_zip(tmp_path / "given" / "Images_png_01.zip", ["Images_png/000001_01_01/109.png"])
    write_table("table.tsv", [(path, "http://nowhere.invalid/")])
    data = dataset("archives", path="given")
    provide("01", data)
    assert images_of("01") == path
    assert [file.name for file in Path("data/raw/01").iterdir()] == ["source.json"]
    with pytest.raises(UserError, match=r'there is no part "02" in table\.tsv; it has 01 to 01'):
        provide("02", data.model_copy(update={"parts": ("01", "02")}))
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"has 7 bytes, Images_png_01\.zip has"):
        provide("01", data)
    path.unlink()
    with pytest.raises(UserError, match="no longer there"):
        images_of("01")


def test_a_fetched_archive_is_moved_into_place(tmp_path):
    path = write_zip(tmp_path / "remote" / "Images_png_01.zip", ["Images_png/000001_01_01/109.png"])
    leftover = Path("data/raw/.01.abc.partial")
    leftover.mkdir(parents=True)
    with serve(path.read_bytes(), "cut 50") as server:
        write_table("table.tsv", [(path, server.url)])
        provide("01", dataset("nih"))
    assert images_of("01").read_bytes() == path.read_bytes()
    assert [folder.name for folder in Path("data/raw").iterdir()] == ["01"]
    assert not list(Path("scratch").rglob("*.zip"))


def test_slices_of_several_parts_are_put_together(tmp_path):
    for part, names in {"01": ["a", "b"], "02": ["b", "c"]}.items():
        inventory.write_inventory(part, pd.DataFrame({"file_name": names, "bytes": 1}))
    assert read_inventories(["01", "02"]).to_numpy().tolist() == [["a", "01"], ["b", "01"], ["c", "02"]]
    with pytest.raises(UserError, match=r"03\.csv: no such file; run `dvc repro download@03`"):
        read_inventories(["01", "03"])


def test_what_the_phantom_left_counts_for_nothing_and_what_was_dropped_for_done(tmp_path):
    zips = [write_zip(tmp_path / f"Images_png_0{n}.zip", [f"a/00000{n}_01_01/001.png"]) for n in (1, 2, 3)]
    write_table("table.tsv", [(path, "http://127.0.0.1:9/") for path in zips])
    archives = sources.archives_of(["01", "02", "03"], dataset("nih"))
    for part in ("01", "02", "03"):
        inventory.write_inventory(part, list_zip(zips[0]))
    write_zip(Path("data/raw/01/Images_png_01.zip"), ["the/phantom's", "own"])
    recorded = {
        f"download@0{n}": {"params": {"params.yaml": {"dataset.source": source}}}
        for n, source in enumerate(("phantom", "nih", "archives"), start=1)
    }
    Path("dvc.lock").write_text(json.dumps({"stages": recorded}))
    assert [archive.part for archive in sources.not_provided(archives, None)] == ["01", "03"]


def run_stage(root: Path, part: str) -> subprocess.Popen:
    command = [sys.executable, str(root / "stages" / "download.py"), part]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_stopped_stage_goes_on_where_it_was_and_gives_the_same_bytes(root, tmp_path, signal_number, code):
    names = [f"Images_png/000001_01_01/{number:03d}.png" for number in range(1, 200)]
    path = write_zip(tmp_path / "remote" / "Images_png_01.zip", names)
    with serve(path.read_bytes(), "slow 0.1") as server:
        write_table("table.tsv", [(path, server.url)])
        write_params(root, source="nih", parts=["01"], listing="table.tsv")
        stage, partial = run_stage(root, "01"), Path("scratch/downloads/Images_png_01.zip.partial")
        while not (partial.exists() and partial.stat().st_size > 5000):
            assert stage.poll() is None, stage.stderr.read()
            time.sleep(0.02)
        stage.send_signal(signal_number)
        _, told = stage.communicate()
        assert stage.returncode == code and "Traceback" not in told
        assert 5000 < partial.stat().st_size < path.stat().st_size and not Path("data/raw/01").exists()
        provide("01", dataset("nih"))
        assert server.ranges[0] is None and server.ranges[1].startswith("bytes=")
    assert images_of("01").read_bytes() == path.read_bytes()
    assert Path("data/inventory/01.csv").read_text().count("\n") == 200


def test_the_fetch_command_fetches_side_by_side_what_no_part_has_yet(root, tmp_path, capsys):
    zips = [write_zip(tmp_path / f"Images_png_0{n}.zip", [f"a/00000{n}_01_01/001.png"]) for n in (1, 2)]
    Path("data/raw/01").mkdir(parents=True)
    shutil.copy(zips[0], "data/raw/01")
    with serve(zips[1].read_bytes()) as server:
        write_table("table.tsv", [(zips[0], "http://127.0.0.1:9/gone"), (zips[1], server.url)])
        write_params(root, source="nih", parts=["01", "02"], listing="table.tsv")
        fetch()
    assert capsys.readouterr().out.split() == ["scratch/downloads/Images_png_02.zip"]
    assert Path("scratch/downloads/Images_png_02.zip").read_bytes() == zips[1].read_bytes()


# ---- with DVC itself

STAGES = ("listing", "download", "annotations", "lesions", "preprocess")


@pytest.fixture
def repository(root, tmp_path) -> Path:
    """A DVC repository with the data stages of this one, on a tiny phantom of one part."""
    yaml = YAML()
    pipeline = yaml.load((root / "dvc.yaml").read_text())
    stages = {name: pipeline["stages"][name] for name in STAGES}
    for stage in stages.values():
        stage["deps"] = [dep for dep in stage["deps"] if not dep.startswith(("lesionpipe/", "stages/"))]
    yaml.dump({"stages": stages}, tmp_path / "dvc.yaml")
    write_params(root, parts=["01"], listing="archives.tsv")
    shutil.copy(root / "lesionpipe" / "deeplesion" / "archives.tsv", tmp_path)
    shutil.copytree(root / "stages", tmp_path / "stages")
    subprocess.run(["git", "init", "--quiet"], check=True)
    dvc("init", "--quiet")
    dvc("config", "core.analytics", "false")
    dvc("config", "cache.type", "reflink,hardlink,symlink")
    return tmp_path


def dvc(*arguments: str) -> list[str]:
    """Run DVC; gives the stages that it ran."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]


def change_params(**changes) -> None:
    yaml = YAML()
    params = yaml.load(Path("params.yaml").read_text())
    params["dataset"].update(changes)
    yaml.dump(params, Path("params.yaml"))


def cached_archives() -> int:
    """Archives of slices in DVC's cache; the zips of true masks don't count."""
    zips = [file for file in Path(".dvc/cache").rglob("*") if file.is_file() and zipfile.is_zipfile(file)]
    return sum(any(name.startswith("Images_png/") for name in zipfile.ZipFile(file).namelist()) for file in zips)


def test_part_by_part_with_each_archive_dropped(repository):
    """The commands of the README, section Little disk."""
    dvc("repro", "preprocess@01")
    with pytest.raises(UserError, match="part 02: never preprocessed"):
        drop(["01", "02"])  # both or none
    assert cached_archives() == 1
    size = Path("data/raw/01/Images_png_01.zip").stat().st_size
    assert sources.drop("01") >= size
    assert cached_archives() == 0 and not Path("data/raw/01").exists()
    assert zipfile.ZipFile("data/true_masks/01.zip").namelist()  # outlive the archive
    slices = Path("data/slices/01.npy").read_bytes()

    change_params(parts=["01", "02"])
    ran = dvc("repro", "--allow-missing", "preprocess@02")
    assert ran == ["download@02", "annotations", "lesions", "preprocess@02"]
    sources.drop("02")
    assert dvc("repro", "--allow-missing") == []
    assert Path("data/slices/01.npy").read_bytes() == slices
    assert not list(Path("data/raw").glob("0?"))


@pytest.mark.parametrize("part", ["1", "001", "../01", "x"])
def test_what_is_no_part_is_not_dropped(monkeypatch, part):
    monkeypatch.setattr(sources, "drop", lambda part: pytest.fail(f"{part} was dropped"))
    with pytest.raises(UserError, match=f'part "{part}": there is no such part; a part is two digits'):
        drop([part, "01"])


def test_data_that_lies_elsewhere_is_neither_dropped_nor_fetched(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/raw/01").mkdir(parents=True)
    Path("data/raw/01/source.json").write_text("{}")
    with pytest.raises(UserError, match="part 01: data/raw/01 only points to data that lies elsewhere"):
        drop(["01"])
    write_params(root, source="phantom")
    with pytest.raises(UserError, match="source = phantom: there is nothing to fetch"):
        fetch(["01"])


def test_a_changed_folder_is_noticed_and_an_unchanged_one_reruns_nothing_else(root, repository):
    """With the preset as it is, but for the place and the number of parts."""
    dvc("repro", "lesions")
    extracted = repository / "extracted"
    with zipfile.ZipFile("data/raw/01/Images_png_01.zip") as archive:
        archive.extractall(extracted)
    shutil.copy("data/raw/DL_info.csv", extracted)
    preset = YAML(typ="safe").load((root / "presets" / "deeplesion-folder.yaml").read_text())["dataset"]
    change_params(**preset | {"path": str(extracted), "parts": ["01"]})
    assert dvc("repro")[0] == "listing@folder"
    assert len(json.loads(Path("metrics/lesions.json").read_text())["lesions"]) == 3
    assert dvc("repro") == ["listing@folder"]

    key_slice = pd.read_csv("data/key_slices/01.csv")["file_name"][0]
    series, number = key_slice.rsplit("_", 1)
    (extracted / "Images_png" / series / number).unlink()
    ran = dvc("repro")
    assert ran == ["listing@folder", "download@01", "annotations", "lesions", "preprocess@01"]
    assert key_slice not in pd.read_csv("data/slices/01.csv")["file_name"].tolist()
    dropped = json.loads(Path("metrics/lesions.json").read_text())["dropped"]["slice_missing"]
    assert sum(dropped.values()) >= 1


def test_a_rerun_takes_an_archive_from_dvcs_cache_and_not_from_the_network(repository):
    path = write_zip(repository / "remote" / "Images_png_01.zip", ["Images_png/000001_01_01/109.png"])
    with serve(path.read_bytes()) as server:
        write_table("mirror.tsv", [(path, server.url)])
        change_params(source="nih", listing="mirror.tsv")
        assert dvc("repro", "download@01") == ["download@01"]
    assert dvc("repro", "--force", "download@01") == ["download@01"]  # the server is gone
    assert Path("data/raw/01/Images_png_01.zip").read_bytes() == path.read_bytes()
    assert cached_archives() == 1


def test_a_changed_size_of_the_stored_slices_is_never_taken_from_another_run(repository):
    """DVC's run cache overlooks keys named `size` within a tracked section, so that one is tracked by its own name."""
    for size in (64, 96):
        yaml = YAML()
        params = yaml.load(Path("params.yaml").read_text())
        params["preprocess"]["image_size"] = size
        yaml.dump(params, Path("params.yaml"))
        assert "preprocess@01" in dvc("repro", "preprocess@01")
        assert Path("data/slices/01.npy").stat().st_size % (2 * 3 * size**2) == 128  # the header of .npy
