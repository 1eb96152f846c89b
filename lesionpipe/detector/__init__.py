"""The detector: network (raw maps), losses (raw maps + targets), decode (raw maps to detections) (paper, sec. 2)."""
