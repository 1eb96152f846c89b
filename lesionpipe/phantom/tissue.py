"""HU of the tissues for one scan: contrast phase, its strength and small differences from patient to patient.

`tissue.csv` holds the mean HU without contrast, in the portal-venous and in the arterial phase (textbook values of
abdominal CT), and by how many HU a tissue is uneven on a scale of millimetres.
"""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesionpipe.phantom.canvas import Label

PHASES = ("native", "portal", "arterial")
PHASE_SHARES = (0.22, 0.63, 0.15)


@dataclass(frozen=True)
class Tissue:
    """HU per label for one scan and what goes with it."""

    phase: str
    hu: dict[Label, float]
    vein: float  # portal and systemic veins of the trunk
    medulla: float  # inner part of the kidney
    oral_contrast: bool
    marrow: float  # spongy bone

    def __getitem__(self, label: Label) -> float:
        return self.hu[label]


@functools.cache
def tissue_table() -> dict[Label, tuple[float, ...]]:
    """Mean HU of the three `PHASES`, and the unevenness, by tissue."""
    with Path(__file__).with_name("tissue.csv").open(encoding="utf-8", newline="") as handle:
        return {Label[name]: tuple(map(float, numbers)) for name, *numbers in list(csv.reader(handle))[1:]}


def random_tissue(rng: np.random.Generator) -> Tissue:
    """A scan's tissue values; soft tissue varies by a few HU, enhancement by about a tenth."""
    phase = int(rng.choice(3, p=PHASE_SHARES))
    strength = float(np.clip(rng.normal(1, 0.12), 0.7, 1.3))
    hu = {}
    for label, values in tissue_table().items():
        spread = 3 if values[0] > -200 else 18 if label is Label.LUNG else 4
        hu[label] = float(values[0] + strength * (values[phase] - values[0]) + rng.normal(0, spread))
    return Tissue(
        phase=PHASES[phase],
        hu=hu,
        vein=float((44, 44 + 120 * strength, 44 + 30 * strength)[phase] + rng.normal(0, 4)),
        medulla=float(hu[Label.KIDNEY] - (0, 18, 95 * strength)[phase]),
        oral_contrast=bool(rng.random() < 0.4),
        marrow=float(rng.normal(190, 30)),
    )
