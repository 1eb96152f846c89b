"""What the stages hand each other: lesion table and slices (`stored`), masks, detections, samples, size groups."""
