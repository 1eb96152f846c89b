"""Outputs appear whole or not at all, and damaged inputs are named."""

import errno
import os
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lesionpipe.core import files, formats, hashing
from lesionpipe.core.errors import UserError

HOST = socket.gethostname()


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path, ended):
    (tmp_path / f".a.txt.{HOST}.{ended}.partial").write_text("half")
    (tmp_path / f".b.txt.{HOST}.{ended}.partial").write_text("of another file")
    files.write_text(tmp_path / "a.txt", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".b.txt.{HOST}.{ended}.partial", "a.txt"]


@pytest.mark.parametrize("owner", ["a living process", "another computer"])
def test_what_another_process_is_writing_stays(tmp_path, ended, owner):
    """Two trainings of one fingerprint once removed each other's half-written state."""
    name = f"{HOST}.{os.getppid()}" if owner == "a living process" else f"other-than-{HOST}.{ended}"
    file, folder = tmp_path / f".a.{name}.partial", tmp_path / f".f.{name}.x.partial"
    file.write_text("half")
    folder.mkdir()
    files.write_text(tmp_path / "a", "new")
    with files.atomic_folder(tmp_path / "f"):
        pass
    assert file.exists() and folder.exists()


def test_processes_that_write_the_same_file_at_the_same_time_all_succeed(tmp_path):
    program = """
import sys
from lesionpipe.core.files import write_text
for i in range(200):
    write_text(sys.argv[1], f"{i:03d} " * 20000)
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, tmp_path / "a"], text=True) for _ in range(3)]
    assert [w.wait() for w in writers] == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "199 " * 20000 + "\n"


def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError, match=r"a\.txt"), files.atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("refused", [False, True])
def test_what_is_flushed_and_forgotten_is_whole(tmp_path, monkeypatch, refused):
    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    if refused:  # as some file systems do
        monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    pieces = [bytes([i]) * 5000 for i in range(20)]
    with (tmp_path / "x").open("wb") as handle:
        for piece in pieces:
            handle.write(piece)
            files.flush_and_forget(handle)
            assert (tmp_path / "x").stat().st_size == handle.tell()
    assert (tmp_path / "x").read_bytes() == b"".join(pieces)


def test_a_failed_folder_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "out"
    with files.atomic_folder(folder) as temporary:
        (temporary / "one").write_text("1")
    with pytest.raises(RuntimeError), files.atomic_folder(folder) as temporary:
        (temporary / "two").write_text("2")
        raise RuntimeError
    assert [p.name for p in folder.iterdir()] == ["one"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_removed_does_not_hide_the_fault(tmp_path, monkeypatch):
    def busy(path):
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    with pytest.raises(UserError, match="the fault"), files.atomic_folder(tmp_path / "out"):
        monkeypatch.setattr(files.shutil, "rmtree", busy)
        raise UserError("the fault")


def test_a_folder_of_a_killed_run_is_removed_by_the_next(tmp_path, ended):
    (tmp_path / f".f.{HOST}.{ended}.abc.partial" / "x").mkdir(parents=True)
    with files.atomic_folder(tmp_path / "f") as temporary:
        (temporary / "one").write_text("1")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_link_makes_way_for_a_folder_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/old").write_text("old")
    (tmp_path / "report").symlink_to(tmp_path / "elsewhere")
    with files.atomic_folder(tmp_path / "report") as temporary:
        (temporary / "new").write_text("new")
    assert not (tmp_path / "report").is_symlink()
    assert [p.name for p in (tmp_path / "report").iterdir()] == ["new"]
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["old"]


def test_csv_has_unix_line_ends_and_short_floats(tmp_path):
    formats.write_csv(tmp_path / "t.csv", pd.DataFrame({"name": ["a"], "value": [95.0204 - 1], "none": [np.nan]}))
    assert (tmp_path / "t.csv").read_bytes() == b"name,value,none\na,94.0204,\n"


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        formats.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_truncated_json_is_named_with_line_and_column(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1,\n "b": ')
    with pytest.raises(UserError, match=r"x\.json: line 2, column 7"):
        files.read_json(tmp_path / "x.json")


def test_checksum_of_known_text(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert hashing.checksum(tmp_path / "x") == "900150983cd24fb0d6963f7d28e17f72"


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000])
def test_json_beyond_all_measure_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="not usable JSON"):
        files.read_json(tmp_path / "x.json")


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """The names of the files that were read for a checksum."""
    monkeypatch.setenv("LESIONPIPE_SCRATCH", str(tmp_path / "scratch"))
    names, whole = [], hashing.checksum
    monkeypatch.setattr(hashing, "checksum", lambda path, on_bytes: names.append(path.name) or whole(path))
    return names


def test_a_file_that_has_not_changed_is_read_once(tmp_path, reads):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert [hashing.remembered_checksum(path) for _ in range(3)] == ["900150983cd24fb0d6963f7d28e17f72"] * 3
    (tmp_path / "link").symlink_to(path)
    assert hashing.remembered_checksum(tmp_path / "link") == "900150983cd24fb0d6963f7d28e17f72"
    assert reads == ["x"]


def test_a_changed_file_is_read_again_even_where_size_and_name_are_the_same(tmp_path, reads):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 1))
    first = hashing.remembered_checksum(path)
    path.write_bytes(b"abd")
    os.utime(path, ns=(1, 2))  # changed a nanosecond later
    assert hashing.remembered_checksum(path) != first
    (tmp_path / "y").write_bytes(b"abc")
    os.utime(tmp_path / "y", ns=(1, 2))
    (tmp_path / "y").replace(path)  # another file at the same place
    assert hashing.remembered_checksum(path) == first
    assert reads == ["x", "x", "x"]


def test_a_damaged_note_of_a_checksum_is_made_anew(tmp_path, reads):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    first = hashing.remembered_checksum(path)
    for text in ("", "[]", '{"file": "other"}', "\x00"):
        (note,) = (tmp_path / "scratch/checksums").iterdir()
        note.write_text(text)
        assert hashing.remembered_checksum(path) == first
    assert len(reads) == 5


def test_checksums_are_remembered_by_many_processes_at_once(tmp_path):
    files_there = [tmp_path / str(i) for i in range(20)]
    for file in files_there:
        file.write_bytes(b"abc")
    program = "import sys\nfrom lesionpipe.core.hashing import remembered_checksum\n"
    program += "print({remembered_checksum(p) for p in sys.argv[1:]})"
    environment = os.environ | {"LESIONPIPE_SCRATCH": str(tmp_path / "scratch")}
    words = [sys.executable, "-c", program, *files_there]
    made = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert {p.communicate()[0] for p in made} == {"{'900150983cd24fb0d6963f7d28e17f72'}\n"}
