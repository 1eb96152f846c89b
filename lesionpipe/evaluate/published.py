"""Published sensitivities on DeepLesion's official test split, to stand beside one's own.

In % at `RATES` false positives per image; NaN: not published. The rows of the paper and of those that it quotes are its
Table 1; MVP-Net (Li et al. 2019) and MULAN (Yan et al. 2019) came after it.
"""

from math import nan

RATES = (0.5, 1, 2, 4, 8, 16)

FROC = {  # the best first
    "MULAN": (77.32, 84.39, 88.99, 92.22, 94.52, 95.24),
    "MVP-Net": (73.83, 81.82, 87.60, 91.30, nan, nan),
    "the paper (+ attention gate)": (72.15, 80.07, 86.40, 90.77, 94.09, 96.32),
    "3DCE": (62.48, 73.37, 80.70, 85.65, 89.09, 91.06),
    "the paper, original RetinaNet": (45.80, 54.17, 62.50, 69.80, 75.34, 79.48),
    "the paper, + anchor optimisation": (64.82, 74.98, 82.29, 87.87, 92.20, 94.90),
    "the paper, + dense supervision": (70.24, 78.28, 85.10, 90.39, 93.81, 96.01),
    "Faster R-CNN": (56.90, 67.26, 75.57, 81.62, 85.83, 88.74),
    "ULDor": (52.86, 64.80, 74.84, 84.38, 87.17, 91.80),
    "Mask R-CNN": (39.82, 52.66, 65.58, 77.73, 85.54, 91.80),
}

SLICES = {  # input slices of each method, where they are known
    "MULAN": 9,
    "MVP-Net": 9,
    "the paper (+ attention gate)": 3,
    "3DCE": 27,
    "the paper, original RetinaNet": 3,
    "the paper, + anchor optimisation": 3,
    "the paper, + dense supervision": 3,
    "Faster R-CNN": 3,
    "ULDor": 1,
}

SIZES = {  # in % at 4 false positives per image: < 10 mm, 10-30 mm, > 30 mm (paper, Fig. 2, right)
    "the paper": (88.35, 91.73, 93.02),
    "3DCE": (80.0, 87.0, 84.0),
}
