"""What all stages after `preprocess` read: the lesion table, the slices, and how px of one become px of the other."""
