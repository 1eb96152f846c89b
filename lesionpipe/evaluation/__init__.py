"""Evaluation: FROC, intervals, strata, COCO files, plots and the report (paper, sec. 3)."""
