"""Slices out of a zip and a folder: same values, as the inventory lists them; every fault of a file in one line."""

import errno
import os
import pickle
import re
import struct
import threading
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_parts import constant, encoded, folder_reader, members, png, write_folder, write_zip

from lesionpipe.core.errors import UserError
from lesionpipe.download.reader import ZipReader, open_part, split_name
from lesionpipe.download.sources import list_archive, list_folder

NAME = "000001_01_01_005.png"
MEMBER = "Images_png/000001_01_01/005.png"


@pytest.fixture(params=["zip", "folder"])
def reader_of(request, tmp_path):
    """Make a reader of the given members, in either form."""

    def make(files):
        if request.param == "zip":
            return ZipReader(write_zip(tmp_path / "part.zip", files))
        return folder_reader(write_folder(tmp_path / "data", files))

    return make


def fault(reader, name=NAME) -> str:
    with pytest.raises(UserError) as caught:
        reader.read(name)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(r"000001_01_01[/_]005\.png", message), message
    assert re.search(r"again|dvc repro", message), message
    return message


def test_values_are_hu_over_the_whole_range_without_wrapping(reader_of):
    hu = np.array([[-32768, -1024, -1], [0, 1, 32767]])
    got = reader_of({MEMBER: png(hu)}).read(NAME)
    assert got.dtype == np.int16
    assert got.tolist() == hu.tolist()


def test_names_are_official_and_everything_else_is_ignored(reader_of):
    files = (
        members([5, 7])
        | members([1000], series="000002_10_03")
        | {
            "Images_png/README.txt": b"x",
            "__MACOSX/Images_png/000001_01_01/._005.png": b"x",
            "Images_png/000001_01_01/.DS_Store": b"x",
            "Images_png/000001_01/01_009.png": b"x",  # its folder is no series
        }
    )
    reader = reader_of(files)
    assert set(reader.stamps) == {NAME, "000001_01_01_007.png", "000002_10_03_1000.png"}
    assert reader.exists("000002_10_03_1000.png")
    assert not reader.exists("000001_01_01_006.png")
    assert not reader.exists("000001_01_01_-01.png")


def test_readers_travel_to_other_processes(reader_of):
    reader = reader_of(members([5]))
    assert pickle.loads(pickle.dumps(reader)).read(NAME)[0, 0] == 50


def test_several_threads_may_read_at_a_time(reader_of):
    reader = reader_of(members(range(1, 40)))
    wrong = []

    def read_all():
        wrong.extend(n for n in range(1, 40) if reader.read(f"000001_01_01_{n:03d}.png")[0, 0] != 10 * n)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_missing_slice_is_named(reader_of):
    assert f"slice {NAME} is missing" in fault(reader_of(members([4])))


def test_eight_bit_and_colour_pngs_are_refused(reader_of):
    grey8 = encoded(np.zeros((4, 4), np.uint8))
    colour = encoded(np.zeros((4, 4, 3), np.uint16))
    alpha = encoded(np.zeros((4, 4, 4), np.uint8))
    assert "8-bit grey PNG, but slices are 16-bit grey" in fault(reader_of({MEMBER: grey8}))
    assert "16-bit RGB PNG" in fault(reader_of({MEMBER: colour}))
    assert "8-bit RGB with alpha PNG" in fault(reader_of({MEMBER: alpha}))


def test_an_absurdly_large_declared_image_is_refused_before_it_is_decoded(reader_of, monkeypatch):
    bomb = huge_png(100_000, 100_000)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    assert "declares 100000 x 100000 px, but sides are 1 to 4096 px" in fault(reader_of({MEMBER: bomb}))


@pytest.mark.parametrize("sides", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused_as_such(reader_of, sides):
    message = fault(reader_of({MEMBER: huge_png(*sides)}))
    assert f"declares {sides[0]} x {sides[1]} px, but sides are 1 to 4096 px" in message and "more than" not in message


def huge_png(width: int, height: int) -> bytes:
    """A small file that declares a 16-bit grey image of any size."""
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + png(constant(0))[33:]


def test_an_absurdly_large_file_is_refused_before_it_is_read(reader_of):
    assert "are no slice" in fault(reader_of({MEMBER: b"\0" * 40_000_000}))


@pytest.mark.parametrize("content", [b"", b"not a png, but long enough to hold a header"])
def test_what_is_no_png_is_refused(reader_of, content):
    assert "not a PNG file" in fault(reader_of({MEMBER: content}))


def test_a_cut_png_is_refused(reader_of):
    whole = png(np.random.default_rng(0).integers(-1000, 1000, (64, 64)))
    assert "damaged" in fault(reader_of({MEMBER: whole[: len(whole) // 2]}))


@pytest.mark.parametrize("where", [60, 500, 2000, -40])
def test_a_flipped_bit_is_never_a_wrong_number(tmp_path, where):
    content = bytearray(png(np.random.default_rng(0).integers(-1000, 1000, (64, 64))))
    path = write_zip(tmp_path / "part.zip", {MEMBER: bytes(content)}, zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    start = raw.index(b"\x89PNG") + (where if where > 0 else len(content) + where)
    raw[start] ^= 4
    path.write_bytes(raw)
    assert "damaged (Bad CRC-32" in fault(ZipReader(path))
    content[where] ^= 4
    assert "damaged PNG" in fault(folder_reader(write_folder(tmp_path / "data", {MEMBER: bytes(content)})))


def test_a_flipped_bit_in_a_deflated_member_is_reported(tmp_path):
    path = write_zip(tmp_path / "part.zip", {MEMBER: png(constant(3))})
    raw = bytearray(path.read_bytes())
    raw[70] ^= 0xFF
    path.write_bytes(raw)
    assert "damaged" in fault(ZipReader(path))


def test_a_truncated_or_missing_or_foreign_archive_is_refused_at_once(tmp_path):
    path = write_zip(tmp_path / "part.zip", members(range(1, 20)))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"part\.zip: not a whole zip archive .*; delete it, fetch it again"):
        ZipReader(path)
    with pytest.raises(UserError, match=r"none\.zip: no such archive; fetch it again"):
        ZipReader(tmp_path / "none.zip")
    path.write_bytes(b"<html>403</html>")
    with pytest.raises(UserError, match="not a whole zip archive"):
        ZipReader(path)


def test_an_archive_that_lost_its_middle_is_refused(tmp_path):
    path = write_zip(tmp_path / "part.zip", members(range(1, 20)))
    raw = path.read_bytes()
    path.write_bytes(raw[:300] + raw[900:])
    with pytest.raises(UserError, match=r"part\.zip"):
        ZipReader(path).read(NAME)


def test_random_damage_is_never_a_wrong_number_nor_a_traceback(tmp_path):
    rng = np.random.default_rng(0)
    whole = write_zip(tmp_path / "part.zip", members(range(4, 7))).read_bytes()
    refused = 0
    for _ in range(300):
        raw = bytearray(whole)
        raw[rng.integers(len(raw))] ^= 1 << rng.integers(8)
        (tmp_path / "part.zip").write_bytes(raw)
        try:
            reader = ZipReader(tmp_path / "part.zip")
            assert all((reader.read(name) == 10 * int(name[13:16])).all() for name in reader.stamps)
        except UserError as error:
            refused += "part.zip" in str(error)
    assert refused > 100


@pytest.mark.parametrize("name", ["../../x", "../../000001_01_01/005.png", "/etc/000001_01_01/005.png", "..\\..\\x"])
def test_a_member_that_leads_outside_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="leads outside the archive"):
        ZipReader(write_zip(tmp_path / "part.zip", members([5]) | {name: b"x"}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part.zip"]


def test_a_damaged_member_is_reported_however_it_is_compressed(tmp_path):
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = write_zip(tmp_path / "part.zip", members([5]), method)
        assert ZipReader(path).read(NAME)[0, 0] == 50
        raw = bytearray(path.read_bytes())
        raw[75:95] = b"\xff" * 20
        path.write_bytes(raw)
        assert "damaged" in fault(ZipReader(path))


def test_a_disk_that_does_not_give_a_slice_is_reported(tmp_path, monkeypatch):
    reader = folder_reader(write_folder(tmp_path / "data", members([5])))

    def bad_disk(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "read_bytes", bad_disk)
    assert "not readable (Input/output error)" in fault(reader)


def test_an_encrypted_member_is_reported(tmp_path):
    path = write_zip(tmp_path / "part.zip", members([5]))
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    assert "encrypted" in fault(ZipReader(path))


def test_any_top_folders_will_do(tmp_path):
    files = members([4], top="Images_png") | members([5], top="DeepLesion/Images_png_01") | members([6], top=".")
    reader = ZipReader(write_zip(tmp_path / "part.zip", files))
    assert [int(reader.read(f"000001_01_01_{n:03d}.png")[0, 0]) for n in (4, 5, 6)] == [40, 50, 60]


def test_the_same_slice_twice_must_be_the_same(tmp_path):
    same = members([5], top="a") | members([5], top="b")
    assert ZipReader(write_zip(tmp_path / "same.zip", same)).stamps.keys() == {NAME}
    with pytest.raises(UserError, match=f"slice {NAME} is there twice and differs"):
        ZipReader(write_zip(tmp_path / "other.zip", same | {"c/000001_01_01/005.png": png(constant(1))}))


def touch(path: Path) -> None:
    """Give a file another time of change."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def test_open_part_follows_the_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LESIONPIPE_SCRATCH", str(tmp_path / "scratch"))
    write_folder(tmp_path / "disk", members([6]))
    listed = list_folder("disk", "07", ["07"])
    for path in ("disk", "disk/Images_png", str(tmp_path / "disk")):
        assert open_part("folder", path, "07", listed).stamps.keys() == {"000001_01_01_006.png"}
    with pytest.raises(UserError, match=rf"^{tmp_path}/nowhere: no such folder; dataset\.path must name"):
        open_part("folder", "nowhere", "07", listed)
    places = {"phantom": "data/phantom/07", "nih": "scratch/downloads", "archives": "given"}
    for number, (source, place) in enumerate(places.items(), start=1):
        path = None if source == "nih" else "given"
        archive = write_zip(Path(place) / "Images_png_07.zip", members([number]))
        inventory = list_archive(archive, "0" * 32)
        reader = open_part(source, path, "07", inventory)
        assert reader.read(f"000001_01_01_{number:03d}.png")[0, 0] == 10 * number
        assert not reader.exists("000001_01_01_009.png")
        archive.unlink()
        advice = "dvc repro phantom" if source == "phantom" else "lesionpipe fetch 07"
        with pytest.raises(UserError, match=rf"^{archive.absolute()}: no such archive; .*`{advice}`"):
            open_part(source, path, "07", inventory)
    with pytest.raises(
        UserError, match=r"inventory/07\.csv: not of dataset\.source = folder; run `dvc repro -f download"
    ):
        open_part("folder", "disk", "07", inventory)


def test_an_archive_that_is_not_the_listed_one_is_refused(tmp_path):
    """Whatever differs: the content of a slice, its presence, or one slice more."""
    path = tmp_path / "Images_png_01.zip"
    inventory = list_archive(write_zip(path, members([4, 5])), "0" * 32)
    assert open_part("archives", str(tmp_path), "01", inventory).stamps == inventory.stamps
    changed = {MEMBER: png(constant(51))}
    for files in (members([4]) | changed, members([4]), members([4, 5, 6])):
        write_zip(path, files)
        with pytest.raises(
            UserError, match=r"zip: slice 000001_01_01_00\d\.png changed since it was listed; run `dvc "
        ):
            open_part("archives", str(tmp_path), "01", inventory)


def test_a_slice_of_a_folder_that_is_not_as_listed_is_refused(tmp_path):
    write_folder(tmp_path, members([4, 5, 6]))
    reader = open_part("folder", str(tmp_path), "01", list_folder(tmp_path, "01", ["01"]))
    series = tmp_path / "Images_png" / "000001_01_01"
    assert reader.read(NAME)[0, 0] == 50
    touch(series / "005.png")
    assert "changed since it was listed; run `dvc repro -f download@01`, then `dvc repro`" in fault(reader)
    (series / "005.png").unlink()
    assert "no such slice; extract it again from its archive, or run `dvc repro -f download@01`" in fault(reader)
    assert reader.exists(NAME)  # the inventory decides, so that a result follows from it alone
    (series / "007.png").write_bytes(png(constant(70)))
    assert not reader.exists("000001_01_01_007.png")
    with pytest.raises(UserError, match=r"slice 000001_01_01_007\.png is missing"):
        reader.read("000001_01_01_007.png")
    assert reader.read("000001_01_01_004.png")[0, 0] == 40


def test_a_worker_that_sees_another_archive_refuses_it(tmp_path):
    path = write_zip(tmp_path / "part.zip", members([5]))
    message = pickle.dumps(ZipReader(path))
    write_zip(path, members([4]))
    with pytest.raises(UserError, match=r"part\.zip: a worker sees another archive there"):
        pickle.loads(message)


def test_readers_of_listed_parts_travel_with_what_they_compare(tmp_path):
    write_folder(tmp_path / "folder", members([5]))
    listed = list_folder(tmp_path / "folder", "01", ["01"])
    reader = pickle.loads(pickle.dumps(open_part("folder", str(tmp_path / "folder"), "01", listed)))
    touch(tmp_path / "folder" / MEMBER)
    assert "changed since it was listed" in fault(reader)


def test_file_names_of_another_form_are_refused():
    assert split_name("000001_01_01_109.png") == ("000001_01_01", "109")
    with pytest.raises(UserError, match=r"'scan\.png' is not of the form"):
        split_name("scan.png")


def test_genuine_slices_agree_with_opencv(shared_data):
    root = shared_data / "deeplesion_mini"
    reader = folder_reader(root)
    assert len(reader.stamps) == 93
    for number in (56, 70, 84):
        raw = cv2.imread(str(root / "Images_png" / "000062_01_01" / f"{number:03d}.png"), cv2.IMREAD_UNCHANGED)
        hu = reader.read(f"000062_01_01_{number:03d}.png")
        assert np.array_equal(hu, raw.astype(np.int32) - 32768)
        assert hu.min() < -900 < 100 < hu.max() < 4000
