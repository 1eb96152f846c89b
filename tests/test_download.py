"""Archives arrive whole and verified whatever the server, the disk or the user does."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from http_server import serve

from lesionpipe.core import hashing
from lesionpipe.core.errors import UserError
from lesionpipe.download import http_client, queue, transfer
from lesionpipe.download.archives import OFFICIAL_TABLE, Archive, read_archives
from lesionpipe.download.http_client import Interrupted, RetryPolicy
from lesionpipe.download.transfer import Stopped, fault_of, fetch_archive

CONTENT = bytes(range(256)) * 200  # 51,200 bytes
MD5 = hashlib.md5(CONTENT).hexdigest()
POLICY = RetryPolicy(retries=3, timeout_s=5)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(http_client, "PAUSE_S", 0.01)
    monkeypatch.setenv("LESIONPIPE_SCRATCH", str(tmp_path / "scratch"))


def archive(url: str, content: bytes = CONTENT, part: str = "01") -> Archive:
    return Archive(f"Images_png_{part}.zip", url, len(content), hashlib.md5(content).hexdigest())


def get(server, target: Path, policy: RetryPolicy = POLICY) -> int:
    """Fetch; gives the sum of all reported bytes."""
    counted = []
    fetch_archive(archive(server.url), target, policy, counted.append, threading.Event())
    return sum(counted)


def test_the_official_table_has_56_archives_of_238_gb():
    archives = read_archives(OFFICIAL_TABLE)
    assert list(archives) == [f"{n:02d}" for n in range(1, 57)]
    assert round(sum(a.bytes for a in archives.values()) / 1e9, 1) == 238.1
    assert archives["01"].md5 == "6a3efff2cc8afeebcf9d532f5306807f"
    assert len({a.url for a in archives.values()}) == len({a.md5 for a in archives.values()}) == 56


def test_a_bad_table_is_refused_with_line_and_value(tmp_path):
    table = tmp_path / "mirror.tsv"
    table.write_text("name\turl\tbytes\tmd5\tsha256\nImages_png_01.zip\tftp://x\t5\tabc\t\n")
    with pytest.raises(UserError, match=r"mirror.tsv: line 2: url = 'ftp://x'"):
        read_archives(table)
    table.write_text("name\turl\tbytes\tmd5\n" + "".join(f"Images_png_01.zip\thttp://{n}\t5\t{MD5}\n" for n in "ab"))
    with pytest.raises(UserError, match=r"mirror.tsv: line 3: Images_png_01.zip is there twice"):
        read_archives(table)


RECOVERABLE = {
    "nothing is wrong": ([], 1),
    "a redirect": (["redirect"], 2),
    "the connection is cut twice": (["cut 20000", "cut 10000"], 3),
    "the connection is reset": (["reset 20000"], 2),
    "503 twice": (["status 503", "status 503"], 3),
    "too many requests, with a pause": (["status 429 0"], 2),
    "the announced length is too long": (["announce 5000"], 1),
    "the announced length is too short": (["announce -5000"], 2),
    "Range is ignored after a cut": (["cut 20000", "ignore_range"], 2),
    "another range comes than asked for, twice": (["cut 20000", "wrong_range 7"] * 2, 5),
    "more bytes come than published": (["longer 5000"], 1),
    "wrong bytes once": (["wrong"], 2),
    "silence": (["silent 3"], 2),
    "the rest does not exist": (["cut 20000", "status 416"], 3),
    "the rest lies behind a redirect": (["cut 20000", "redirect"], 3),
}


@pytest.mark.parametrize(("faults", "requests"), RECOVERABLE.values(), ids=RECOVERABLE.keys())
def test_a_server_may_fail(tmp_path, faults, requests):
    with serve(CONTENT, *faults) as server:
        counted = get(server, tmp_path / "a.zip", RetryPolicy(retries=5, timeout_s=0.5))
        assert len(server.ranges) == requests
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert counted == len(CONTENT)
    assert not (tmp_path / "a.zip.partial").exists()


def test_only_the_rest_is_asked_for_after_a_cut(tmp_path):
    with serve(CONTENT, "cut 20000", "cut 10000") as server:
        get(server, tmp_path / "a.zip")
        assert server.ranges == [None, "bytes=20000-", "bytes=30000-"]


def test_a_server_whose_file_ends_earlier_is_asked_for_all(tmp_path):
    with serve(CONTENT, "cut 20000", "status 416") as server:
        get(server, tmp_path / "a.zip")
        assert server.ranges == [None, "bytes=20000-", None]


HOPELESS = {
    "a redirect loop": (["redirect"] * 30, "redirects more than 10 times"),
    "no such file": (["status 404"], "HTTP 404"),
    "a web page": (["page"], "web page"),
    "always 503": (["status 503"] * 10, "HTTP 503, 4 times in a row; 0 of 51,200 bytes are kept"),
    "wrong bytes twice": (["wrong", "wrong"], f"twice, {MD5} is published"),
    "always cut at the same place": (["ignore_and_cut 20000"] * 10, "4 times in a row; 20,000 of 51,200"),
}


@pytest.mark.parametrize(("faults", "message"), HOPELESS.values(), ids=HOPELESS.keys())
def test_a_hopeless_server_ends_in_one_clear_line(tmp_path, faults, message):
    with serve(CONTENT, *faults) as server, pytest.raises(UserError, match=message) as caught:
        get(server, tmp_path / "a.zip")
    assert "Images_png_01.zip" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/a.zip", "http://[::bad/", "http://x:port/"]
)
def test_a_redirect_to_what_is_no_web_address_is_refused_at_once(tmp_path, location):
    with serve(CONTENT, *[f"redirect {location}"] * 9) as server:
        with pytest.raises(UserError, match=r"^Images_png_01\.zip: .* redirects to '.*', which is no web address"):
            get(server, tmp_path / "a.zip")
        assert len(server.ranges) == 1


def test_a_redirect_may_be_relative(tmp_path):
    with serve(CONTENT, "redirect /file") as server:
        get(server, tmp_path / "a.zip")
        assert len(server.ranges) == 2


def test_a_server_that_moves_on_is_worth_more_attempts_than_retries(tmp_path):
    with serve(CONTENT, *["cut 5000"] * 9) as server:
        get(server, tmp_path / "a.zip")
        assert len(server.ranges) == 10
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_pauses_grow_and_heed_the_server_within_reason(monkeypatch):
    monkeypatch.setattr(http_client, "PAUSE_S", 1.0)
    assert 0.75 <= http_client.pause(1, None) <= 1.25
    assert 6 <= http_client.pause(4, None) <= 10
    assert http_client.pause(30, None) <= 75
    assert http_client.pause(1, Interrupted("", wait_s=20)) == 20
    assert http_client.pause(1, Interrupted("", wait_s=1e6)) == 300


@pytest.mark.parametrize("kept", [CONTENT[:777], b"", CONTENT, b"x" * 777, CONTENT + b"more"])
def test_whatever_an_earlier_run_left_the_result_is_right(tmp_path, kept):
    (tmp_path / "a.zip.partial").write_bytes(kept)
    with serve(CONTENT) as server:
        assert get(server, tmp_path / "a.zip") == len(CONTENT)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("there", [b"another file of that name", b"x" * len(CONTENT)])
def test_a_wrong_file_under_the_archives_name_is_replaced(tmp_path, there):
    (tmp_path / "a.zip").write_bytes(there)
    with serve(CONTENT) as server:
        assert get(server, tmp_path / "a.zip") == len(CONTENT)
        assert get(server, tmp_path / "a.zip") == len(CONTENT)
        assert len(server.ranges) == 1
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_what_is_no_address_is_reported(tmp_path):
    with pytest.raises(
        UserError, match=r"Images_png_01.zip: http://x:port/: Invalid port: 'port'; correct the address or take"
    ):
        fetch_archive(archive("http://x:port/"), tmp_path / "a.zip", POLICY, print, threading.Event())


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("²", 0), ("soon", 0), ("", 0)])
def test_any_retry_after_is_understood_or_ignored(value, seconds):
    assert http_client._retry_after(value) == seconds


def test_stopping_keeps_what_is_there(tmp_path):
    stop = threading.Event()
    with serve(CONTENT, "slow 0.01") as server, pytest.raises(Stopped):
        fetch_archive(archive(server.url), tmp_path / "a.zip", POLICY, lambda count: stop.set(), stop)
    kept = (tmp_path / "a.zip.partial").read_bytes()
    assert kept and CONTENT.startswith(kept)


def test_a_full_disk_is_reported_and_nothing_is_lost(tmp_path, monkeypatch):
    store = transfer._Transfer._store

    def full(self, chunk):
        if self.size > 10000:
            raise OSError(errno.ENOSPC, "full")
        store(self, chunk[:8000])
        store(self, chunk[8000:])

    monkeypatch.setattr(transfer._Transfer, "_store", full)
    with serve(CONTENT, "slow 0.001") as server, pytest.raises(UserError, match="no space left"):
        get(server, tmp_path / "a.zip")
    kept = (tmp_path / "a.zip.partial").stat().st_size
    monkeypatch.undo()
    with serve(CONTENT) as server:
        get(server, tmp_path / "a.zip")
        assert server.ranges == [f"bytes={kept}-"]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_really_full_disk(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(small)]
    if os.name != "posix" or os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small tmpfs needs root and the right to mount")
    try:
        with serve(CONTENT) as server, pytest.raises(UserError, match=r"partial: no space left .* bytes are still"):
            get(server, small / "a.zip")
        kept = (small / "a.zip.partial").read_bytes()
        assert len(kept) > 20000 and CONTENT.startswith(kept)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_too_small_a_disk_is_reported_before(tmp_path):
    archives = [Archive(f"Images_png_{part}.zip", "http://x", 5 * 10**14, MD5) for part in ("01", "02")]
    with pytest.raises(UserError, match=r"downloading 2 archives still needs 1000000.000 GB, the disk has"):
        queue.fetch_all(archives[:1], tmp_path, POLICY, 1, ahead=archives[1:])


def test_what_is_to_come_counts_only_what_is_missing(tmp_path):
    (tmp_path / "Images_png_01.zip").write_bytes(CONTENT)
    (tmp_path / "Images_png_02.zip.partial").write_bytes(CONTENT[:1200])
    (tmp_path / "Images_png_04.zip").write_bytes(b"another file, which will be replaced")
    archives = [archive("http://x", part=part) for part in ("01", "02", "03", "04")]
    assert queue.bytes_to_come(archives, tmp_path) == 0 + 50000 + 51200 + 51200


def test_archives_come_side_by_side_and_one_failure_does_not_stop_the_others(tmp_path):
    with serve(CONTENT, "slow 0.005") as good, serve(CONTENT, "status 404") as bad:
        archives = [archive(good.url), archive(bad.url, part="02"), archive(good.url, part="03")]
        with pytest.raises(UserError, match=r"^Images_png_02.zip: .*HTTP 404"):
            queue.fetch_all(archives, tmp_path, POLICY, 2)
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == ["Images_png_01.zip", "Images_png_03.zip"]


def test_the_next_part_is_fetched_ahead_and_kept_half_done(tmp_path):
    with serve(CONTENT) as quick, serve(CONTENT, "slow 0.02") as slow:
        first = [archive(quick.url), archive(slow.url, part="02")]
        queue.fetch_all(first[:1], tmp_path, POLICY, 2, ahead=first[1:])
        assert (tmp_path / "Images_png_01.zip").read_bytes() == CONTENT
        time.sleep(0.1)
        assert (tmp_path / "Images_png_02.zip.partial").exists()
        queue.fetch_all(first[1:], tmp_path, POLICY, 2)
        assert (tmp_path / "Images_png_02.zip").read_bytes() == CONTENT


def test_archives_are_verified_side_by_side_and_each_bad_one_is_named(tmp_path):
    archives = [archive("http://x", part=part) for part in ("01", "02", "03")]
    (tmp_path / "Images_png_01.zip").write_bytes(CONTENT)
    (tmp_path / "Images_png_02.zip").write_bytes(bytes(len(CONTENT)))
    with pytest.raises(
        UserError, match=r"02\.zip: has MD5 .*; .*03\.zip: No such file|03\.zip: No.*; .*02\.zip: has MD5"
    ):
        queue.verify_all(archives, tmp_path, 2)


def test_a_given_archive_is_read_once_and_again_only_when_it_changed(tmp_path):
    path, read = tmp_path / "Images_png_01.zip", []
    path.write_bytes(CONTENT)
    assert fault_of(path, archive("http://x"), read.append) is None
    (note,) = (tmp_path / "scratch" / "checksums").iterdir()
    before = note.stat().st_mtime_ns
    assert fault_of(path, archive("http://x"), read.append) is None
    assert note.stat().st_mtime_ns == before and sum(read) == 2 * len(CONTENT)
    path.write_bytes(CONTENT[:-1] + b"!")
    os.utime(path, ns=(1, 1))
    assert f"Images_png_01.zip has {MD5}: it is damaged" in fault_of(path, archive("http://x"))
    path.write_bytes(CONTENT[:100])
    assert "has 100 bytes, Images_png_01.zip has 51,200" in fault_of(path, archive("http://x"))


def test_a_damaged_note_of_what_was_verified_is_made_anew(tmp_path):
    path = tmp_path / "Images_png_01.zip"
    path.write_bytes(CONTENT)
    assert fault_of(path, archive("http://x")) is None
    (note,) = (tmp_path / "scratch" / "checksums").iterdir()
    for damage in ("", "{", "[]"):
        note.write_text(damage)
        assert fault_of(path, archive("http://x")) is None
        assert MD5 in note.read_text()


def test_of_two_that_verify_one_archive_one_reads_it(tmp_path, monkeypatch):
    path, reads = tmp_path / "Images_png_01.zip", []
    path.write_bytes(CONTENT)
    read = hashing.checksum

    def slow_checksum(path, on_bytes):
        reads.append(path)
        time.sleep(0.2)
        return read(path, on_bytes=on_bytes)

    monkeypatch.setattr(hashing, "checksum", slow_checksum)
    threads = [threading.Thread(target=fault_of, args=(path, archive("http://x"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1


def test_a_fetched_archive_is_not_read_again(tmp_path, monkeypatch):
    with serve(CONTENT) as server:
        get(server, tmp_path / "a.zip")
    monkeypatch.setattr(hashing, "checksum", lambda *_: pytest.fail("read again"))
    assert fault_of(tmp_path / "a.zip", archive("http://x")) is None


def test_a_whole_archive_is_taken_from_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "a.zip").write_bytes(CONTENT)
    with serve(CONTENT) as server:
        assert get(server, tmp_path / "given" / "a.zip") == len(CONTENT)
        assert server.ranges == []
    assert [path.name for path in (tmp_path / "given").iterdir()] == ["a.zip"]


def test_a_damaged_archive_stays_until_the_whole_one_has_come(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"half of it")
    with serve(CONTENT, "status 404") as server, pytest.raises(UserError, match="HTTP 404"):
        get(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == b"half of it"


KILLED = """
import sys, threading
from pathlib import Path
from lesionpipe.download.archives import Archive
from lesionpipe.download.http_client import RetryPolicy
from lesionpipe.download.transfer import fetch_archive
url, size, md5, target = sys.argv[1:]
archive = Archive("Images_png_01.zip", url, int(size), md5)
fetch_archive(archive, Path(target), RetryPolicy(3, 5), print, threading.Event())
"""


def start(server, target: Path) -> subprocess.Popen:
    """Fetch in a process of its own; returns when the first bytes have come."""
    arguments = [sys.executable, "-c", KILLED, server.url, str(len(CONTENT)), MD5, str(target)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    process.stdout.readline()
    return process


def test_two_processes_that_fetch_one_archive_fetch_it_once(tmp_path):
    target = tmp_path / "a.zip"
    with serve(CONTENT, "slow 0.01") as server:
        process = start(server, target)
        assert get(server, target) == len(CONTENT)
        process.communicate()
        assert process.returncode == 0 and server.ranges == [None]
    assert target.read_bytes() == CONTENT


def test_killed_in_the_middle_and_rerun_gives_the_same_bytes(tmp_path):
    target = tmp_path / "a.zip"
    with serve(CONTENT, "slow 0.05") as server:
        process = start(server, target)
        process.kill()
        process.wait()
        process.stdout.close()
        assert not target.exists() and target.with_name("a.zip.partial").stat().st_size < len(CONTENT)
        get(server, target)
        assert server.ranges[1].startswith("bytes=")
    assert target.read_bytes() == CONTENT
