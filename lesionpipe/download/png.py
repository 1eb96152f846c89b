"""A slice of DeepLesion as a PNG file, to HU: 16-bit grey whose values are HU + 32768.

What a file declares is checked before anything is decoded, so that a lie cannot fill the memory.
"""

import struct

import cv2
import numpy as np

from lesionpipe.core.errors import UserError

HU_OFFSET = 32768  # stored value = HU + HU_OFFSET (DeepLesion's README)
MAX_SIDE = 4096  # px; DeepLesion has 512, rarely 768 and 1024
MAX_PNG_BYTES = 2 * MAX_SIDE**2 + (1 << 20)  # no honest PNG of such a slice is larger
_HEADER = struct.Struct(">8sI4sIIBB")  # signature, length and name of the first chunk, width, height, bit depth, colour
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


def decode_slice(
    png: bytes, place: str, advice: str, width: int | None = None, height: int | None = None
) -> np.ndarray:
    """int16 HU (H, W) of a PNG file.

    Args:
        place: what messages call the file.
        advice: what to do about a bad file, for messages.
        width: what it must have, where known; `height` alike.

    Raises:
        UserError: the file is damaged, no 16-bit grey PNG, absurdly large, or of another size.
    """
    _check_header(png, place, advice, width, height)
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2 or image.dtype != np.uint16:
        raise UserError(f"{place}: damaged PNG; {advice}")
    # value - 32768 for 16 unsigned bits is the flip of the top bit, read as signed: no wrap, no wider type
    return np.bitwise_xor(image, np.uint16(HU_OFFSET), out=image).view(np.int16)


def _check_header(png: bytes, place: str, advice: str, width: int | None, height: int | None) -> None:
    if len(png) < _HEADER.size or png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR":
        raise UserError(f"{place}: not a PNG file; {advice}")
    _, _, _, w, h, depth, colour = _HEADER.unpack_from(png)
    if (depth, colour) != (16, 0):
        found = f"{depth}-bit {_COLOURS.get(colour, f'colour type {colour}')}"
        raise UserError(f"{place}: {found} PNG, but slices are 16-bit grey (HU + {HU_OFFSET}); {advice}")
    if not (0 < w <= MAX_SIDE and 0 < h <= MAX_SIDE):
        raise UserError(f"{place}: declares {w} x {h} px, more than {MAX_SIDE} x {MAX_SIDE}; {advice}")
    if (width or w, height or h) != (w, h):
        annotated = f"annotated as {width} x {height} px (Image_size)"
        raise UserError(f"{place}: {w} x {h} px, but {annotated}; correct DL_info.csv and run `dvc repro` again")
