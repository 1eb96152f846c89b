"""Dense masks from weak RECIST labels (paper, sec. 2.2)."""
