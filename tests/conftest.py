"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of genuine slices and reference cases, which lies beside the checkout and never inside it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no reference data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
