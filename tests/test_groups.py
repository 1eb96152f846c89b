"""Which lesion is in which size group."""

import numpy as np
import pytest

from lesionpipe.data.size_groups import by_size
from lesionpipe.params import load_params

DIAMETERS = np.array([9.99, 10, 20, 30, 30.01, np.nan])


@pytest.mark.parametrize(
    ("edges", "members"),
    [
        ((10, 30), {"< 10 mm": [0], "10-30 mm": [1, 2, 3], "> 30 mm": [4]}),
        ((10, 20, 30), {"< 10 mm": [0], "10-20 mm": [1, 2], "20-30 mm": [3], "> 30 mm": [4]}),
        ((10,), {"< 10 mm": [0], ">= 10 mm": [1, 2, 3, 4]}),
        ((), {"all": [0, 1, 2, 3, 4]}),
    ],
)
def test_a_lesion_with_a_diameter_is_in_one_group(edges, members):
    assert {name: np.flatnonzero(mask).tolist() for name, mask in by_size(DIAMETERS, edges).items()} == members


def test_the_usual_groups_are_the_papers(root):
    edges = load_params(root / "params.yaml").evaluate.size_edges_mm
    assert list(by_size(DIAMETERS, edges)) == ["< 10 mm", "10-30 mm", "> 30 mm"]
