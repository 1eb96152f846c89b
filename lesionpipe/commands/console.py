"""Text for the terminal."""

import sys

_PLAIN = str.maketrans({"–": "-", "−": "-", "…": "...", "≥": ">="})


def print_text(text: str) -> None:
    """Print, with plain signs where the output's encoding (latin-1, ASCII) lacks dashes and the like."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    print(text)
