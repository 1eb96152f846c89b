"""What a user sees when something is wrong: one clear line and exit code 1, never a traceback for a user's mistake."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

INTERRUPTED = 130  # exit codes as a shell gives them: 128 and the number of the signal
NO_READER = 141


class UserError(Exception):
    """Something the user can mend: the message names file, row, field and value, and says what to do."""


def run(job: Callable[[], None]) -> None:
    """Run a stage or command; what a user can mend becomes one line and exit code 1.

    Ctrl-C ends with 130. A reader that has gone (`… | head`) ends it quietly with 141. What the terminal's encoding
    cannot show is printed as a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        _run_and_flush(job)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: finished outputs are kept; run the same command again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at exit
        sys.exit(NO_READER)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(
                f"error: no space left on the disk while writing {error.filename or 'an output'}: free some and rerun"
            )
        if error.filename is not None:
            sys.exit(f"error: {error.filename}: {error.strerror or ' '.join(map(str, error.args))}")
        raise


def part_argument(parts: Sequence[str]) -> str:
    """The part that a stage was called for, the only word after its name.

    Args:
        parts: `dataset.parts`.

    Raises:
        UserError: there is no such word, more than one, or none of `parts`.
    """
    stage = Path(sys.argv[0]).stem
    words = sys.argv[1:]
    if len(words) != 1:
        raise UserError(f"usage: python -m stages.{stage} NN, where NN is one of dataset.parts ({', '.join(parts)})")
    if words[0] not in parts:
        raise UserError(f"part {words[0]!r} is not in dataset.parts ({', '.join(parts)})")
    return words[0]


def _run_and_flush(job: Callable[[], None]) -> None:
    """Run a job and send out what it printed, so that a missing reader is noticed here."""
    try:
        job()
    except SystemExit:  # the usual end of a command
        sys.stdout.flush()
        raise
    sys.stdout.flush()
