"""Where the organs lie: key points in relative coordinates (see `body.py`), in painting order within their region."""

from lesionpipe.deeplesion.phantom.body import Organ
from lesionpipe.deeplesion.phantom.canvas import Label

CHEST_SOFT = (Label.LUNG, Label.MEDIASTINUM)
BELLY = (Label.PERITONEUM,)

MEDIASTINUM = Organ(
    Label.MEDIASTINUM, (-0.25, 1.45),
    ((0, 0.0, -0.05), (0.5, 0.03, -0.05), (0.8, 0.08, -0.05), (1.3, 0.05, 0)),
    ((0, 0.31, 0.85), (0.25, 0.21, 0.92), (0.5, 0.2, 0.95), (0.8, 0.25, 0.97), (1.3, 0.2, 0.9)),
    wave=0.08, within=(Label.LUNG,),
)  # fmt: skip
HEART = Organ(
    Label.HEART, (0.5, 1.08),
    ((0.5, 0.06, -0.34), (0.8, 0.16, -0.28), (1.05, 0.2, -0.35)),
    ((0.5, 0.24, 0.34), (0.75, 0.38, 0.44), (1.05, 0.34, 0.36)),
    tilt=0.55, wave=0.05, within=(),
)  # fmt: skip
RIGHT_DOME = Organ(Label.PERITONEUM, (0.83, 2.2), ((0.9, -0.47, -0.08), (1.3, -0.45, -0.08)),
                   ((0.85, 0.25, 0.35), (1.0, 0.47, 0.78), (1.25, 0.56, 0.98)), wave=0.03,
                   within=CHEST_SOFT)  # fmt: skip
LEFT_DOME = Organ(Label.PERITONEUM, (0.9, 2.2), ((0.9, 0.5, -0.1), (1.3, 0.47, -0.1)),
                  ((0.92, 0.2, 0.3), (1.05, 0.42, 0.72), (1.28, 0.53, 0.97)), wave=0.03,
                   within=CHEST_SOFT)  # fmt: skip

LIVER = Organ(
    Label.LIVER, (0.84, 1.82),
    ((0.9, -0.48, -0.06), (1.2, -0.52, -0.02), (1.5, -0.68, 0.06), (1.8, -0.78, 0.12)),
    ((0.86, 0.3, 0.4), (1.0, 0.5, 0.8), (1.25, 0.55, 0.95), (1.5, 0.34, 0.75), (1.8, 0.2, 0.45)),
    power=2.3, wave=0.05,
)  # fmt: skip
LEFT_LOBE = Organ(
    Label.LIVER, (0.98, 1.5),
    ((1.0, -0.1, -0.45), (1.2, -0.02, -0.5), (1.45, -0.2, -0.5)),
    ((1.0, 0.3, 0.3), (1.2, 0.42, 0.36), (1.45, 0.3, 0.25)),
    tilt=-0.2, wave=0.06,
)  # fmt: skip
GALLBLADDER = Organ(Label.GALLBLADDER, (1.3, 1.62), ((1.3, -0.3, -0.35), (1.6, -0.38, -0.5)),
                    ((1.3, 0.1, 0.17), (1.6, 0.11, 0.16)), wave=0.03,
                    within=(Label.LIVER, Label.PERITONEUM))  # fmt: skip
SPLEEN = Organ(Label.SPLEEN, (0.98, 1.55), ((1.0, 0.7, 0.2), (1.3, 0.76, 0.3), (1.5, 0.8, 0.3)),
               ((1.0, 0.25, 0.5), (1.3, 0.2, 0.48), (1.5, 0.15, 0.3)), tilt=0.25, wave=0.09)  # fmt: skip
STOMACH = Organ(Label.STOMACH, (0.97, 1.62), ((1.0, 0.42, -0.1), (1.25, 0.42, -0.38), (1.55, 0.2, -0.5)),
                ((1.0, 0.24, 0.3), (1.25, 0.3, 0.33), (1.5, 0.36, 0.24)), tilt=0.2, wave=0.08)  # fmt: skip
PANCREAS = Organ(Label.PANCREAS, (1.3, 1.62), ((1.3, 0.34, -0.02), (1.45, 0.12, -0.1), (1.6, -0.16, 0.0)),
                 ((1.3, 0.28, 0.085), (1.45, 0.3, 0.1), (1.6, 0.13, 0.15)), tilt=-0.15, wave=0.12)  # fmt: skip
RIGHT_KIDNEY = Organ(Label.KIDNEY, (1.36, 1.94), ((1.4, -0.44, 0.5), (1.9, -0.52, 0.4)),
                     ((1.4, 0.21, 0.27), (1.65, 0.22, 0.3), (1.9, 0.19, 0.25)), tilt=-0.55, wave=0.035,
                     within=(Label.PERITONEUM, Label.LIVER))  # fmt: skip
LEFT_KIDNEY = Organ(Label.KIDNEY, (1.28, 1.87), ((1.3, 0.46, 0.5), (1.85, 0.54, 0.4)),
                    ((1.3, 0.21, 0.27), (1.6, 0.22, 0.3), (1.85, 0.19, 0.25)), tilt=0.55, wave=0.035,
                    within=(Label.PERITONEUM, Label.SPLEEN))  # fmt: skip
BLADDER = Organ(Label.BLADDER, (2.48, 2.85), ((2.5, 0.0, -0.42), (2.8, 0, -0.38)),
                ((2.5, 0.4, 0.34), (2.8, 0.34, 0.3)), power=2.3, wave=0.04)  # fmt: skip
WOMB = Organ(Label.WOMB_PROSTATE, (2.35, 2.8), ((2.4, 0.05, -0.15), (2.7, 0.0, 0.12)),
             ((2.4, 0.34, 0.3), (2.7, 0.26, 0.24)), wave=0.07)  # fmt: skip
PROSTATE = Organ(Label.WOMB_PROSTATE, (2.68, 2.97), ((2.7, 0.0, 0.1), (2.95, 0.0, 0.05)),
                 ((2.7, 0.28, 0.22), (2.95, 0.26, 0.24)), wave=0.05)  # fmt: skip

CHEST_ORGANS = {"mediastinum": MEDIASTINUM, "heart": HEART, "right_dome": RIGHT_DOME, "left_dome": LEFT_DOME}
BELLY_ORGANS = {
    "liver": LIVER, "left_lobe": LEFT_LOBE, "gallbladder": GALLBLADDER, "spleen": SPLEEN, "stomach": STOMACH,
    "pancreas": PANCREAS, "right_kidney": RIGHT_KIDNEY, "left_kidney": LEFT_KIDNEY,
}  # fmt: skip
PELVIC_ORGANS = {"womb": WOMB, "prostate": PROSTATE, "bladder": BLADDER}

# Courses of tubes: (u, v, t, radius in mm) per key point.
COURSES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "aorta": ((-0.06, -0.22, 0.62, 15), (-0.09, -0.3, 0.42, 15), (-0.03, -0.15, 0.33, 14), (0.12, 0.2, 0.32, 13),
              (0.17, 0.45, 0.42, 12), (0.14, 0.48, 0.9, 11.5), (0.05, 0.36, 1.25, 11), (0.06, 0.25, 1.7, 9.5),
              (0.04, 0.2, 2.02, 8.5)),
    "pulmonary": ((0.08, -0.38, 0.58, 13), (0.07, -0.25, 0.47, 13), (-0.08, -0.04, 0.48, 10), (-0.24, 0.0, 0.5, 8)),
    "left_pulmonary": ((0.08, -0.28, 0.47, 12), (0.2, 0.0, 0.45, 10), (0.3, 0.08, 0.5, 8)),
    "vena_cava_superior": ((-0.14, -0.28, 0.15, 8), (-0.17, -0.22, 0.35, 9), (-0.16, -0.16, 0.62, 9)),
    "brachiocephalic": ((0.2, -0.3, 0.08, 6), (0.08, -0.4, 0.2, 6), (-0.14, -0.28, 0.28, 6)),
    "right_carotid": ((-0.12, -0.1, -0.1, 5), (-0.05, -0.22, 0.33, 5)),
    "left_carotid": ((0.1, -0.1, -0.1, 4), (0.04, -0.1, 0.33, 4)),
    "left_subclavian": ((0.25, 0.05, -0.05, 5), (0.13, 0.05, 0.33, 5)),
    "vena_cava": ((-0.14, 0.0, 0.86, 11), (-0.14, 0.18, 1.1, 12), (-0.14, 0.22, 1.6, 11), (-0.1, 0.24, 2.08, 10)),
    "portal": ((-0.4, 0.0, 1.22, 6), (-0.16, 0.0, 1.33, 7), (0.0, -0.02, 1.5, 6.5), (0.0, -0.14, 1.9, 5)),
    "splenic": ((0.0, 0.04, 1.44, 5), (0.3, 0.1, 1.36, 4.5), (0.62, 0.25, 1.3, 4)),
    "right_renal": ((-0.1, 0.25, 1.62, 5), (-0.36, 0.42, 1.64, 4)),
    "left_renal": ((-0.1, 0.2, 1.57, 5), (0.08, 0.12, 1.57, 4.5), (0.38, 0.42, 1.58, 4)),
    "right_iliac": ((0.02, 0.22, 2.02, 6.5), (-0.3, 0.2, 2.3, 6), (-0.62, 0.0, 2.6, 5.5), (-0.6, -0.72, 2.85, 5.5),
                    (-0.6, -0.8, 3.1, 5.5)),
    "left_iliac": ((0.05, 0.22, 2.02, 6.5), (0.34, 0.2, 2.3, 6), (0.62, 0.0, 2.6, 5.5), (0.6, -0.72, 2.85, 5.5),
                   (0.6, -0.8, 3.1, 5.5)),
    "right_iliac_vein": ((-0.1, 0.27, 2.06, 7), (-0.36, 0.28, 2.3, 7), (-0.62, 0.12, 2.6, 6.5), (-0.52, -0.66, 2.85, 6),
                         (-0.52, -0.76, 3.1, 6)),
    "left_iliac_vein": ((-0.06, 0.27, 2.06, 7), (0.34, 0.3, 2.3, 7), (0.62, 0.12, 2.6, 6.5), (0.52, -0.66, 2.85, 6),
                        (0.52, -0.76, 3.1, 6)),
    "trachea": ((0.0, 0.0, -0.2, 9), (0.0, 0.12, 0.42, 8.5)),
    "right_bronchus": ((0.0, 0.12, 0.42, 7), (-0.2, 0.08, 0.5, 6), (-0.34, 0.12, 0.62, 4)),
    "left_bronchus": ((0.0, 0.12, 0.42, 7), (0.24, 0.1, 0.52, 5.5), (0.36, 0.16, 0.64, 4)),
    "esophagus": ((0.02, 0.25, -0.2, 8), (0.06, 0.28, 0.45, 8), (0.1, 0.3, 0.85, 8), (0.24, 0.1, 1.06, 9)),
    "colon": ((-0.7, -0.08, 2.38, 20), (-0.74, 0.02, 2.1, 22), (-0.76, 0.1, 1.75, 20), (-0.6, -0.35, 1.6, 18),
              (-0.4, -0.68, 1.72, 18), (0.0, -0.74, 1.85, 18), (0.45, -0.66, 1.65, 18), (0.68, -0.2, 1.42, 17),
              (0.82, 0.05, 1.45, 15), (0.84, 0.22, 1.8, 14), (0.78, 0.12, 2.1, 14), (0.6, -0.1, 2.32, 14),
              (0.3, 0.1, 2.42, 15), (0.05, 0.3, 2.46, 15), (0.0, 0.5, 2.6, 17), (0.0, 0.6, 2.8, 16),
              (0.0, 0.68, 3.05, 12)),
}  # fmt: skip
ARTERIES = ("aorta", "right_iliac", "left_iliac", "right_carotid", "left_carotid", "left_subclavian")
HEART_VESSELS = ("pulmonary", "left_pulmonary", "vena_cava_superior", "brachiocephalic")
VEINS = ("vena_cava", "portal", "splenic", "right_renal", "left_renal", "right_iliac_vein", "left_iliac_vein")
AIRWAYS = ("trachea", "right_bronchus", "left_bronchus")
