"""HU of the tissues for one scan: contrast phase, its strength and small differences from patient to patient."""

from dataclasses import dataclass

import numpy as np

from lesionpipe.phantom.canvas import Label

PHASES = ("native", "portal", "arterial")
PHASE_SHARES = (0.22, 0.63, 0.15)
# Mean HU without contrast, in the portal-venous and in the arterial phase: textbook values of abdominal CT.
_BY_PHASE = {
    Label.SKIN: (10, 15, 15),
    Label.FAT: (-105, -105, -105),
    Label.MUSCLE: (52, 60, 56),
    Label.BONE: (420, 430, 425),
    Label.CANAL: (22, 25, 25),
    Label.DISC: (85, 90, 88),
    Label.LUNG: (-850, -845, -848),
    Label.MEDIASTINUM: (-90, -88, -88),
    Label.HEART: (42, 115, 140),
    Label.VESSEL: (42, 155, 260),
    Label.AIRWAY: (-985, -985, -985),
    Label.ESOPHAGUS: (38, 55, 50),
    Label.PERITONEUM: (-103, -102, -102),
    Label.LIVER: (57, 108, 74),
    Label.GALLBLADDER: (8, 10, 9),
    Label.SPLEEN: (48, 118, 105),
    Label.PANCREAS: (40, 88, 98),
    Label.STOMACH: (42, 72, 66),
    Label.KIDNEY: (33, 178, 185),
    Label.ADRENAL: (25, 62, 66),
    Label.BOWEL: (40, 82, 80),
    Label.COLON: (38, 62, 60),
    Label.BLADDER: (6, 9, 6),
    Label.WOMB_PROSTATE: (45, 82, 70),
    Label.NODE: (40, 72, 62),
}


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


def random_tissue(rng: np.random.Generator) -> Tissue:
    """A scan's tissue values; soft tissue varies by a few HU, enhancement by about a tenth."""
    phase = int(rng.choice(3, p=PHASE_SHARES))
    strength = float(np.clip(rng.normal(1, 0.12), 0.7, 1.3))
    hu = {}
    for label, values in _BY_PHASE.items():
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
