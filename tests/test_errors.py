"""What a user can mend ends in one line and exit code 1; what is a fault of the program keeps its traceback."""

import errno
import os
import subprocess
import sys

import pytest

from lesionpipe.core.errors import UserError, part_argument, run


def raising(error: BaseException):
    def job():
        raise error

    return job


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a.csv: no such file"), "error: a.csv: no such file"),
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT), "a.csv"), "error: a.csv: No such file or directory"),
        (OSError(errno.ELOOP, os.strerror(errno.ELOOP), "a.csv"), "error: a.csv: Too many levels of symbolic links"),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "a.csv"), "error: a.csv: File name too long"),
        (OSError(errno.EIO, os.strerror(errno.EIO), "a.csv"), "error: a.csv: Input/output error"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.csv"),
            "error: no space left on the disk while writing a.csv: free some and rerun",
        ),
    ],
)
def test_one_line(error, line):
    with pytest.raises(SystemExit) as caught:
        run(raising(error))
    assert caught.value.code == line


def test_a_file_is_named_even_where_the_system_gives_no_reason():
    error = OSError("half a picture")
    error.filename = "a.png"
    with pytest.raises(SystemExit) as caught:
        run(raising(error))
    assert caught.value.code == "error: a.png: half a picture"


def test_interrupted():
    with pytest.raises(SystemExit) as caught:
        run(raising(KeyboardInterrupt()))
    assert caught.value.code == 130


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("a fault")])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)) as caught:
        run(raising(error))
    assert caught.value is error


def program(body: str, after: str = "", **environment: str) -> subprocess.CompletedProcess:
    """A program that runs a job of the given lines, its output piped to the shell words `after`."""
    text = f"from lesionpipe.core.errors import run\ndef job():\n    {body}\nrun(job)"
    words = ["bash", "-o", "pipefail", "-c", f'"$0" -c "$1" {after}', sys.executable, text]
    return subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)


@pytest.mark.parametrize("body", ["print('a')", "print('a' * 10**6)", "import sys; print('a'); sys.exit(0)"])
def test_a_reader_that_has_gone_ends_a_program_quietly(body):
    done = program(f"import time; time.sleep(0.3); {body}", "| true")
    assert (done.returncode, done.stderr) == (141, "")


def test_what_the_terminal_cannot_show_is_a_question_mark():
    done = program("print('2\u20133')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "2?3\n")


def test_a_stage_of_parts_wants_one_of_them(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/stages/masks.py", "02"])
    assert part_argument(("01", "02")) == "02"
    for words in ([], ["01", "02"]):
        monkeypatch.setattr(sys, "argv", ["/somewhere/stages/masks.py", *words])
        with pytest.raises(UserError, match=r"usage: python -m stages\.masks NN, .* dataset\.parts \(01, 02\)"):
            part_argument(("01", "02"))
    monkeypatch.setattr(sys, "argv", ["/somewhere/stages/masks.py", "2"])
    with pytest.raises(UserError, match=r"part '2' is not in dataset\.parts \(01, 02\)"):
        part_argument(("01", "02"))
