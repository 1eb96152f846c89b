"""What the stages hand each other: lesion table, slice store, mask store, detections, samples, size groups."""
