"""Key slices with their neighbours at 2 mm, clipped in HU (paper, sec. 3.1)."""
