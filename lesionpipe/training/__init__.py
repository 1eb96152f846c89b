"""Training: data set, augmentation, the Lightning module, the fit that resumes (paper, sec. 2.3 and 3.1)."""
