"""Two-stage detectors, regions first and then what is in them: Faster R-CNN, Mask R-CNN and 3DCE (paper, Table 1)."""
