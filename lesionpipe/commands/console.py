"""Results for the terminal."""

import json
import sys

_PLAIN = str.maketrans({"–": "-", "−": "-", "…": "...", "≥": ">=", "±": "+/-"})


def print_result(result: str | dict) -> None:
    """Print text, or numbers as JSON, with plain signs where the output's encoding (latin-1, ASCII) lacks some."""
    text = result if isinstance(result, str) else json.dumps(result, indent=1, allow_nan=False)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    print(text)
