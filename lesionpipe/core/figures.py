"""matplotlib for figures that go into files: drawn without pyplot, so that no backend is needed."""

import io
import os
from types import ModuleType


def load_matplotlib() -> ModuleType:
    """The package with its `figure` module; MPLBACKEND is dropped, since it may name a backend that doesn't exist."""
    os.environ.pop("MPLBACKEND", None)
    import matplotlib.figure

    return matplotlib


def svg_of(figure) -> str:
    """A figure as markup to stand inside a page: without the XML heading, same bytes for same data."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
