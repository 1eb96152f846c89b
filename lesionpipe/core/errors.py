"""What a user sees when something is wrong: one clear line and exit code 1, never a traceback for a user's mistake."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


class UserError(Exception):
    """Something the user can mend: the message names file, row, field and value, and says what to do."""


def run(job: Callable[[], None]) -> None:
    """Run a stage or command; what a user can mend becomes one line and exit code 1.

    Ctrl-C ends with 130, and quietly with 141 a reader that has gone (`… | head`): 128 and the signal's number, as in a
    shell. What the terminal's encoding cannot show is printed as a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        try:
            job()
        except SystemExit:  # the usual end of a command
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here a missing reader is noticed
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: finished outputs are kept; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at exit
        sys.exit(141)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            name = error.filename or "an output"
            sys.exit(f"error: no space left on the disk while writing {name}: free some and rerun")
        if error.filename is not None:
            sys.exit(f"error: {error.filename}: {error.strerror or ' '.join(map(str, error.args))}")
        raise


def part_argument(parts: Sequence[str]) -> str:
    """The part that a stage was called for, the only word after its name; a UserError if it is none of `parts`."""
    stage, words, known = Path(sys.argv[0]).stem, sys.argv[1:], f"dataset.parts ({', '.join(parts)})"
    if len(words) != 1:
        raise UserError(f"usage: python -m stages.{stage} NN, where NN is one of {known}")
    if words[0] not in parts:
        raise UserError(f"part {words[0]!r} is not in {known}")
    return words[0]
