"""DeepLesion in whatever form becomes the same inventory, and no archive is needed after `preprocess`."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import pandas as pd
import pytest
from http_server import serve
from ruamel.yaml import YAML
from stage_runs import link_code
from tiny_parts import members, write_zip

from lesionpipe.commands.fetch import fetch
from lesionpipe.core.errors import UserError
from lesionpipe.core.hashing import checksum
from lesionpipe.download import inventory as inventories
from lesionpipe.download.archives import archives_of
from lesionpipe.download.http_client import RetryPolicy
from lesionpipe.download.inventory import inventory_path, read_inventories, read_inventory, write_inventory
from lesionpipe.download.sources import deal_out, is_preprocessed, list_archive, list_folder, take_archive, take_phantom

POLICY = RetryPolicy(retries=1, timeout_s=5)
DRAWING = {"seed": 0, "patients_per_part": 3, "extra_test_patients": 0, "key_slices_per_patient": 1, "image_size": 64}
GONE = "http://127.0.0.1:9/gone"
MD5 = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LESIONPIPE_SCRATCH", raising=False)


def archive_with(*names: str, path: str = "a.zip") -> Path:
    return write_zip(Path(path), {name: b"x" * len(name) for name in names})


def small_archive(part: str, folder: str = "remote") -> Path:
    """An archive with one slice of patient NN."""
    return archive_with(f"Images_png/0000{part}_01_01/109.png", path=f"{folder}/Images_png_{part}.zip")


def write_table(path: str, archives: list[tuple[Path, str]]) -> str:
    rows = [(file.name, url, file.stat().st_size, checksum(file)) for file, url in archives]
    pd.DataFrame(rows, columns=["name", "url", "bytes", "md5"]).to_csv(path, sep="\t", index=False)
    return path


def write_params(root: Path, table: str | None = None, **dataset: object) -> None:
    """The phantom's params.yaml, with changes in `dataset`, a tiny phantom and small slices."""
    yaml = YAML()
    params = yaml.load((root / "params.yaml").read_text())
    params["phantom"].update(DRAWING)
    params["preprocess"].update(image_size=64)
    params["dataset"].update(dataset)
    params["download"].update(archives=table, retries=1)
    yaml.dump(params, Path("params.yaml"))


# ---- the inventory of an archive


def test_the_inventory_of_an_archive_names_its_slices_and_nothing_else():
    names = ["Images_png/000001_01_01/109.png", "000002_01_01/007.png", "Images_png/", "__MACOSX/._109.png", "a.txt"]
    found = list_archive(archive_with(*names), MD5)
    assert found.stamps == {
        "000001_01_01_109.png": (31, zlib.crc32(b"x" * 31)),
        "000002_01_01_007.png": (20, zlib.crc32(b"x" * 20)),
    }
    write_inventory("01.csv", found)
    assert Path("01.csv").read_text().splitlines() == [
        "file_name,bytes,crc32,md5",
        f"a.zip,{Path('a.zip').stat().st_size},,{MD5}",
        f"000001_01_01_109.png,31,{zlib.crc32(b'x' * 31):08x},",
        f"000002_01_01_007.png,20,{zlib.crc32(b'x' * 20):08x},",
    ]
    assert read_inventory("01", ".") == found


@pytest.mark.parametrize("name", ["../../x", "/etc/x.png", "Images_png/../../000001_01_01/001.png", "..\\..\\x"])
def test_an_archive_with_a_member_that_leads_outside_is_refused(name):
    with pytest.raises(UserError, match=r"a\.zip: member .* leads outside"):
        list_archive(archive_with("Images_png/000001_01_01/109.png", name), MD5)


def test_a_truncated_archive_and_one_without_slices_are_refused():
    path = archive_with("Images_png/000001_01_01/109.png")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"a\.zip: not a whole zip archive"):
        list_archive(path, MD5)
    with pytest.raises(UserError, match=r"b\.zip: holds no slice"):
        list_archive(archive_with("readme.txt", path="b.zip"), MD5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file_name,bytes\n000001_01_01_109.png,31\n",
        "file_name,bytes,crc32,md5\n",
        "file_name,bytes,crc32,md5\na.zip,200,,\n",
        f"file_name,bytes,crc32,md5\na.zip,200,,{MD5}\n000001_01_01_109.png,3",
        f"file_name,bytes,crc32,md5\na.zip,200,,{MD5}\n000001_01_01_109.png,x,00000000,\n",
        "file_name,bytes,modified_ns,parts\nImages_png,,,\n000001_01_01_109.png,3,5,\n",
        "\xff\xfe",
    ],
)
def test_a_damaged_inventory_is_refused_in_one_line(text):
    Path("01.csv").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"^01\.csv: not a whole inventory \(.*\); run `dvc repro -f download@01`$"):
        read_inventory("01", ".")


def test_slices_of_several_parts_are_put_together():
    for part, slices in {"01": (4, 5), "02": (5, 6)}.items():
        write_inventory(inventory_path(part), list_archive(write_zip(Path(f"{part}.zip"), members(slices)), MD5))
    assert read_inventories(["01", "02"]).to_numpy().tolist() == [
        ["000001_01_01_004.png", "01"],
        ["000001_01_01_005.png", "01"],
        ["000001_01_01_006.png", "02"],
    ]
    with pytest.raises(UserError, match=r"03\.csv: no such file; run `dvc repro download@03`"):
        read_inventories(["01", "03"])


# ---- an extracted folder


def make_folder(root: Path, numbers) -> Path:
    for number in numbers:
        folder = root / "Images_png" / f"{number:06d}_01_01"
        folder.mkdir(parents=True)
        (folder / "001.png").write_bytes(b"abc")
        (folder / "notes.txt").write_bytes(b"")
    (root / "DL_info.csv").write_text("File_name\n")
    (root / "Images_png" / "not a series").mkdir()
    return root


def test_an_extracted_folder_is_dealt_out_whole_and_about_evenly():
    series = [f"{number:06d}_01_01" for number in range(1, 2001)]
    dealt = deal_out(series, ["02", "01", "03", "04"])
    assert sorted(one for mine in dealt.values() for one in mine) == series
    assert all(450 < len(mine) < 550 for mine in dealt.values())
    assert dealt == deal_out(series[::-1], ["01", "02", "03", "04"])  # whatever the order


def test_a_further_series_changes_its_own_part_alone():
    parts = [f"{number:02d}" for number in range(1, 9)]
    before = deal_out([f"{number:06d}_01_01" for number in range(2, 200)], parts)
    after = deal_out([f"{number:06d}_01_01" for number in range(1, 200)], parts)
    changed = [part for part in parts if before[part] != after[part]]
    assert len(changed) == 1 and set(after[changed[0]]) - set(before[changed[0]]) == {"000001_01_01"}


@pytest.mark.parametrize("count", [2, 5, 9])
def test_no_part_is_empty_where_there_are_series_enough(count):
    parts = [f"{number:02d}" for number in range(1, count + 1)]
    dealt = deal_out([f"{number:06d}_01_01" for number in range(1, count + 1)], parts)
    assert [len(dealt[part]) for part in parts] == [1] * count


def test_the_inventory_of_an_extracted_folder_has_sizes_and_times(tmp_path):
    make_folder(tmp_path / "given", range(1, 6))
    both = [list_folder("given", part, ["02", "01"]) for part in ("01", "02")]
    names = sorted(name for one in both for name in one.stamps)
    assert names == [f"00000{n}_01_01_001.png" for n in range(1, 6)]
    write_inventory("01.csv", both[0])
    assert Path("01.csv").read_text().startswith("file_name,bytes,modified_ns,parts\nImages_png,,,01 02\n")
    again = read_inventory("01", ".")
    assert again == both[0] and (again.parts, again.archive_md5) == (("01", "02"), "")
    series, number = min(again.stamps).rsplit("_", 1)
    stat = (tmp_path / "given" / "Images_png" / series / number).stat()
    assert again.stamps[f"{series}_{number}"] == (3, stat.st_mtime_ns)


def test_a_folder_without_slices_or_with_too_few_series_is_refused(tmp_path):
    make_folder(tmp_path / "given", range(1, 6))
    with pytest.raises(UserError, match=rf"^dataset\.parts: 6 parts for 5 series in {tmp_path}/given/Images_png"):
        list_folder("given", "01", [f"{n:02d}" for n in range(1, 7)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=rf"^{tmp_path}/empty: holds no slice"):
        list_folder("empty", "01", ["01"])
    with pytest.raises(UserError, match=rf"^{tmp_path}/nowhere: no such folder; dataset\.path"):
        list_folder("nowhere", "01", ["01"])


def test_a_folder_that_was_dealt_out_among_other_parts_is_refused(tmp_path):
    """Otherwise slices would be in two parts, or in none."""
    make_folder(tmp_path / "given", range(1, 6))
    for part in ("01", "02"):
        write_inventory(inventory_path(part), list_folder("given", part, ["01", "02"]))
    assert len(read_inventories(["02", "01"])) == 5
    for parts in (["01"], ["01", "02", "03"]):
        with pytest.raises(
            UserError, match=r"01\.csv: .* among the parts 01, 02, but dataset\.parts = .*repro -f download"
        ):
            read_inventories(parts)


# ---- archives


def test_a_given_archive_is_verified_and_listed_where_it_lies(tmp_path):
    path = small_archive("01", "given")
    table = write_table("table.tsv", [(path, GONE)])
    found = take_archive("01", "given", table)
    assert list(found.stamps) == ["000001_01_01_109.png"] and found.archive_md5 == checksum(path)
    with pytest.raises(UserError, match=r'there is no part "02" in table\.tsv; it has 01 to 01'):
        take_archive("02", "given", table)
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"^{tmp_path}/given/Images_png_01\.zip: has 7 bytes, Images_png_01\.zip has"):
        take_archive("01", "given", table)


@pytest.mark.parametrize("source", ["archives", "nih"])
def test_the_inventory_of_an_archive_that_was_deleted_is_remembered(source, tmp_path):
    path = small_archive("01", "given")
    table = write_table("table.tsv", [(path, GONE)])

    def take():
        if source == "archives":
            return take_archive("01", "given", table)
        return take_archive("01", "given", table, ["01"], POLICY)

    before = take()
    path.unlink()
    assert take() == before
    (memory,) = Path("scratch/inventories").glob("*.csv")
    memory.write_text(memory.read_text()[:60])  # damaged
    with pytest.raises(UserError, match=r"Images_png_01\.zip: (No such file|http://127)"):
        take()


def test_a_missing_archive_is_named_with_its_absolute_path(tmp_path):
    table = write_table("table.tsv", [(small_archive("01"), GONE)])
    with pytest.raises(UserError, match=rf"^{tmp_path}/nowhere/Images_png_01\.zip: No such file"):
        take_archive("01", "nowhere", table)
    with pytest.raises(
        UserError, match=rf"^{tmp_path}/data/phantom/01/Images_png_01\.zip: no such archive; .*dvc repro phantom"
    ):
        take_phantom("01")


def test_the_phantoms_archive_is_listed_like_another():
    archive = small_archive("01", "data/phantom/01")
    assert take_phantom("01").archive_md5 == checksum(archive)


def test_an_archive_is_fetched_into_the_folder_of_the_users_choice():
    path = small_archive("01")
    with serve(path.read_bytes(), "cut 50") as server:
        table = write_table("table.tsv", [(path, server.url)])
        take_archive("01", "mine", table, ["01"], POLICY)
        take_archive("01", "mine", table, ["01"], POLICY)
        assert len(server.ranges) == 2
        shutil.rmtree("scratch/inventories")
        take_archive("01", None, table, ["01"], POLICY)
    for folder in ("mine", "scratch/downloads"):
        assert Path(folder, path.name).read_bytes() == path.read_bytes()
        assert {file.suffix for file in Path(folder).iterdir()} == {".zip", ".lock"}


def test_only_archives_that_download_still_needs_are_fetched_ahead():
    zips = {part: small_archive(part) for part in ("01", "02", "03")}
    with serve(zips["01"].read_bytes(), "slow 0.1") as first, serve(zips["03"].read_bytes()) as third:
        table = write_table("table.tsv", [(zips["01"], first.url), (zips["02"], GONE), (zips["03"], third.url)])
        inventories.remember(list_archive(zips["02"], checksum(zips["02"])))
        take_archive("01", "mine", table, ["01", "02", "03"], POLICY, 2)
    come = {file.name.removesuffix(".partial") for file in Path("mine").glob("Images*")}
    assert come == {"Images_png_01.zip", "Images_png_03.zip"}


def test_free_disk_is_asked_for_before_anything_is_fetched(monkeypatch):
    table = write_table("table.tsv", [(small_archive("01"), GONE)])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(UserError, match=r"mine: downloading 1 archives still needs 0\.000 GB, the disk has"):
        take_archive("01", "mine", table, ["01"], POLICY)


# ---- as a user calls them


def run_stage(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "stages.download", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_stage_without_a_part_says_how_it_is_called(root, tmp_path):
    link_code(root, tmp_path)
    write_params(root)
    _, message = run_stage().communicate()
    assert message.startswith("error: usage: python -m stages.download NN") and message.count("\n") == 1


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_stopped_stage_goes_on_where_it_was_and_gives_the_same_bytes(root, tmp_path, signal_number, code):
    link_code(root, tmp_path)
    names = [f"Images_png/000001_01_01/{number:03d}.png" for number in range(1, 200)]
    path = archive_with(*names, path="remote/Images_png_01.zip")
    with serve(path.read_bytes(), "slow 0.1") as server:
        write_params(root, write_table("table.tsv", [(path, server.url)]), source="nih", parts=["01"])
        stage, partial = run_stage("01"), Path("scratch/downloads/Images_png_01.zip.partial")
        while not (partial.exists() and partial.stat().st_size > 5000):
            assert stage.poll() is None, stage.stderr.read()
            time.sleep(0.02)
        stage.send_signal(signal_number)
        _, message = stage.communicate()
        assert stage.returncode == code and "Traceback" not in message
        assert 5000 < partial.stat().st_size < path.stat().st_size and not Path("data/inventory").exists()
        assert run_stage("01").wait() == 0
        assert server.ranges[0] is None and server.ranges[1].startswith("bytes=")
    assert partial.with_suffix("").read_bytes() == path.read_bytes()
    assert Path("data/inventory/01.csv").read_text().count("\n") == 201


def preprocessed(part: str, archive: Path) -> None:
    """Leave what `download` and `preprocess` leave of a part."""
    inventory = list_archive(archive, checksum(archive))
    write_inventory(inventory_path(part), inventory)
    Path("data/slices").mkdir(parents=True, exist_ok=True)
    Path(f"data/slices/{part}.npy").write_bytes(b"")
    pd.DataFrame({"file_name": list(inventory.stamps)}).to_csv(f"data/slices/{part}.csv", index=False)


def test_the_fetch_command_brings_what_preprocess_still_needs_or_what_is_named(root, capsys):
    zips = [small_archive(part) for part in ("01", "02")]
    preprocessed("01", zips[0])
    with serve(zips[1].read_bytes()) as second, serve(zips[0].read_bytes()) as first:
        table = write_table("table.tsv", [(zips[0], first.url), (zips[1], second.url)])
        write_params(root, table, source="nih", parts=["01", "02"], path="mine")
        fetch()
        assert [file.name for file in Path("mine").glob("*.zip")] == ["Images_png_02.zip"]
        assert capsys.readouterr().out.splitlines() == [
            "preprocessed already: 01; to have an archive all the same, name its part",
            str(Path("mine/Images_png_02.zip").absolute()),
        ]
        fetch(["01"])
        assert Path("mine/Images_png_01.zip").read_bytes() == zips[0].read_bytes()
        assert len(second.ranges) == 1
    with pytest.raises(UserError, match=r'there is no part "1" in table\.tsv'):
        fetch(["1"])


def test_the_fetch_command_verifies_given_archives_and_downloads_nothing(root, capsys):
    zips = [small_archive(part, "given") for part in ("01", "02")]
    write_params(
        root, write_table("table.tsv", [(z, GONE) for z in zips]), source="archives", path="given", parts=["01", "02"]
    )
    fetch()
    assert capsys.readouterr().out.split() == [str(z.absolute()) for z in zips]
    zips[0].unlink()
    with pytest.raises(UserError, match=r"given/Images_png_01\.zip: No such file"):
        fetch(["01", "02"])


@pytest.mark.parametrize("source", ["phantom", "folder"])
def test_where_there_are_no_archives_there_is_nothing_to_fetch(root, source):
    write_params(root, source=source, path="somewhere")
    with pytest.raises(UserError, match=f"source = {source}: it has no archives to fetch"):
        fetch(["01"])


def test_what_the_phantom_left_is_not_what_was_made_of_an_archive():
    path, other = small_archive("01"), archive_with("Images_png/000009_01_01/001.png", path="phantom.zip")
    (archive,) = archives_of(["01"], write_table("table.tsv", [(path, GONE)]))
    assert not is_preprocessed(archive)
    preprocessed("01", other)  # the phantom's inventory and slices
    assert not is_preprocessed(archive)
    write_inventory(inventory_path("01"), list_archive(path, checksum(path)))  # the archive's, but still its slices
    assert not is_preprocessed(archive)
    preprocessed("01", path)
    assert is_preprocessed(archive)
    Path("data/slices/01.csv").write_text("")
    assert not is_preprocessed(archive)


# ---- with DVC itself

STAGES = ("phantom", "download", "lesions", "preprocess")


@pytest.fixture
def repository(root, tmp_path) -> Path:
    """A DVC repository with the data stages of this one, on a tiny phantom of one part."""
    yaml = YAML()
    pipeline = yaml.load((root / "dvc.yaml").read_text())
    stages = {name: pipeline["stages"][name] for name in STAGES}
    for stage in stages.values():
        stage["deps"] = [dep for dep in stage["deps"] if not dep.startswith(("lesionpipe/", "stages/"))]
    yaml.dump({"stages": stages}, tmp_path / "dvc.yaml")
    write_params(root, parts=["01"])
    link_code(root, tmp_path)
    Path("data/inputs/annotations").mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet"], check=True)
    dvc("init", "--quiet")
    dvc("config", "core.analytics", "false")
    return tmp_path


def dvc(*arguments: str, fails: bool = False) -> list[str] | str:
    """Run DVC; gives the stages that it ran, or what it printed where it is to fail."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    if fails:
        return done.stdout + done.stderr
    return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]


def change_params(section: str, **changes: object) -> None:
    yaml = YAML()
    params = yaml.load(Path("params.yaml").read_text())
    params[section].update(changes)
    yaml.dump(params, Path("params.yaml"))


def publish(parts: list[str]) -> dict[str, Path]:
    """Draw parts, and put their archives and table of lesions where NIH's would be."""
    change_params("dataset", parts=parts)
    dvc("repro", "phantom")
    tables = [pd.read_csv(f"data/phantom/{part}/DL_info.csv") for part in parts]
    pd.concat(tables).to_csv("data/inputs/annotations/DL_info.csv", index=False)
    Path("remote").mkdir()
    return {part: shutil.copy(f"data/phantom/{part}/Images_png_{part}.zip", "remote") for part in parts}


def test_part_by_part_with_each_archive_deleted_and_brought_back(repository):
    zips = publish(["01", "02"])
    with serve(Path(zips["01"]).read_bytes()) as first, serve(Path(zips["02"]).read_bytes()) as second:
        urls = {"01": first.url, "02": second.url}
        table = write_table("mirror.tsv", [(Path(path), urls[part]) for part, path in zips.items()])
        change_params(
            "dataset", source="nih", parts=["01"], path="mine", annotations="data/inputs/annotations/DL_info.csv"
        )
        change_params("download", archives=table)
        assert dvc("repro") == ["phantom", "download@01", "lesions", "preprocess@01"]
        assert [path.name for path in Path("data/phantom/01").iterdir()] == ["not-drawn.txt"]
        slices, archive = Path("data/slices/01.npy").read_bytes(), Path("mine/Images_png_01.zip")
        archive.unlink()
        assert dvc("repro") == []
        assert dvc("repro", "--force", "download@01")[-1] == "download@01"  # not even when its stage runs again
        change_params("lesions", noisy="drop")
        assert dvc("repro") == []

        change_params("dataset", parts=["01", "02"])
        assert dvc("repro") == ["phantom", "download@02", "lesions", "preprocess@02"]
        Path("mine/Images_png_02.zip").unlink()
        assert dvc("repro") == [] and first.ranges == second.ranges == [None]

        change_params("preprocess", image_size=96)
        message = dvc("repro", fails=True)
        assert f"error: {archive.absolute()}: no such archive; run `lesionpipe fetch 01`" in message
        fetch(["01", "02"])
        assert dvc("repro") == ["preprocess@01", "preprocess@02"]
        change_params("preprocess", image_size=64)
        dvc("repro")
        assert Path("data/slices/01.npy").read_bytes() == slices
    cached = [file for file in Path(".dvc/cache").rglob("*") if file.is_file() and zipfile.is_zipfile(file)]
    held = [zipfile.ZipFile(file).namelist()[0] for file in cached]
    assert sum(name.startswith("Images_png/") for name in held) == 2  # the phantom's own, before


def test_changes_in_an_extracted_folder_are_read_when_asked_for(repository):
    dvc("repro", "phantom")
    extracted = repository / "extracted"
    with zipfile.ZipFile("data/phantom/01/Images_png_01.zip") as archive:
        archive.extractall(extracted)
    shutil.copy("data/phantom/01/DL_info.csv", extracted)
    change_params("dataset", source="folder", path=str(extracted), parts=["01", "02"])
    dvc("repro")
    assert dvc("repro") == []

    parts = {part: pd.read_csv(f"data/slices/{part}.csv")["file_name"].tolist() for part in ("01", "02")}
    part = max(parts, key=lambda part: len(parts[part]))
    key_slice = parts[part][0]
    series, number = key_slice.rsplit("_", 1)
    (extracted / "Images_png" / series / number).unlink()
    assert dvc("repro") == []  # DVC doesn't look into the folder
    message = dvc("repro", "--force", "--single-item", f"preprocess@{part}", fails=True)
    assert f"no such slice; extract it again from its archive, or run `dvc repro -f download@{part}`" in message
    dvc("repro", "--force", "download")
    assert dvc("repro") == ["lesions", f"preprocess@{part}"]
    assert key_slice not in pd.read_csv(f"data/slices/{part}.csv")["file_name"].tolist()


def test_a_changed_size_of_the_stored_slices_is_never_taken_from_another_run(repository):
    for size in (64, 96):
        change_params("preprocess", image_size=size)
        assert "preprocess@01" in dvc("repro", "preprocess@01")
        assert Path("data/slices/01.npy").stat().st_size % (2 * 3 * size**2) == 128  # the header of .npy
