"""Training: samples, augmentation, one loop, schedule, resume (paper, sec. 2.3 and 3.1)."""
