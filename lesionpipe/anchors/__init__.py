"""Anchor boxes: where they lie, which lesion they answer for, and the search for good ones (paper, sec. 2.1)."""
