"""How good the masks are, by number and by eye: the stage `mask_quality`."""
