"""Detectors behind one interface: backbones, checkpoint, one folder per family."""
