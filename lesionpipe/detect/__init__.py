"""Slices -> boxes with scores, for validation, the stage `detect` and new scans."""
