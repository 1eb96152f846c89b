"""What a user sees when something is wrong: one clear line and exit code 1, never a traceback for a user's mistake."""

import errno
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend: the message names file, row, field and value, and says what to do."""


def run(job: Callable[[], None]) -> None:
    """Run a stage or command; what a user can mend becomes one line and exit code 1 (Ctrl-C: 130)."""
    try:
        job()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: finished outputs are kept; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(
                f"error: no space left on the disk while writing {error.filename or 'an output'}: free some and rerun"
            )
        if error.filename is not None:
            sys.exit(f"error: {error.filename}: {error.strerror or ' '.join(map(str, error.args))}")
        raise
