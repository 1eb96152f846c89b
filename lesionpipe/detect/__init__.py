"""Slices -> boxes with scores, for the stage `detect` and for new scans; works with any family of detectors."""
