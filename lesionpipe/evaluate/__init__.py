"""FROC, intervals, groups, comparison, COCO, report (paper, sec. 3)."""
