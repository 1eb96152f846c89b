"""The report: one page with numbers, curves, groups and slices (paper, Figs. 2 to 4)."""
