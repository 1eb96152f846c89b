"""A synthetic DeepLesion: schematic CT with lesions of all eight types in the official format, and their true masks.

`write_parts` leaves archives with their rows of DL_info.csv; a seed gives the same bytes on every run. From the
outside in: archive (files), render (slices), plan (patients, scans, places of lesions), lesions, anatomy with its tubes
and trunk, and canvas, on which contours in mm become pixels of tissue. Only the stage `phantom` draws.
"""
