"""What a user can mend ends in one line and exit code 1; what is a fault of the program keeps its traceback."""

import errno
import os

import pytest

from lesionpipe.core.errors import UserError, run


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
