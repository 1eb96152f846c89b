"""Outputs appear whole or not at all, and damaged inputs are named."""

import errno
import os

import numpy as np
import pandas as pd
import pytest

from lesionpipe.core import files
from lesionpipe.core.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    (tmp_path / ".a.txt.99999.partial").write_text("half")
    (tmp_path / ".b.txt.99999.partial").write_text("of another file")
    files.write_text(tmp_path / "a.txt", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.txt.99999.partial", "a.txt"]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
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


def test_csv_has_unix_line_ends_and_short_floats(tmp_path):
    files.write_csv(tmp_path / "t.csv", pd.DataFrame({"name": ["a"], "value": [95.0204 - 1], "none": [np.nan]}))
    assert (tmp_path / "t.csv").read_bytes() == b"name,value,none\na,94.0204,\n"


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_truncated_json_is_named_with_line_and_column(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1,\n "b": ')
    with pytest.raises(UserError, match=r"x\.json: line 2, column 7"):
        files.read_json(tmp_path / "x.json")


def test_checksum_of_known_text(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.checksum(tmp_path / "x") == "900150983cd24fb0d6963f7d28e17f72"


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000])
def test_json_beyond_all_measure_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="not usable JSON"):
        files.read_json(tmp_path / "x.json")
