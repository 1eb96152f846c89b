"""The paper's RetinaNet: network, matching, losses, decoding (paper, sec. 2)."""
