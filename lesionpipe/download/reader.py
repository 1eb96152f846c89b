"""Slices of a part as HU, out of its zip archive (in place, nothing is extracted) or out of an extracted folder.

Both hold 16-bit grey PNGs of HU + 32768 as `<any folders>/<series>/<slice>.png`; the official name of a slice is
`<series>_<slice>.png`, e.g. `000001_01_01_109.png`.

The inventory of the part decides which slices exist, and each one read is compared with it: archives and folders are no
outputs of DVC, and what is made from them must be what DVC believes. What a PNG declares is checked before it is
decoded, so that a lie cannot fill the memory. Whatever is wrong with a file is one `UserError` that names archive,
member and what to do.
"""

import re
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from functools import lru_cache
from lzma import LZMAError
from pathlib import Path, PurePath, PurePosixPath

import cv2
import numpy as np

from lesionpipe.core.errors import UserError
from lesionpipe.download.inventory import Inventory, Stamps, inventory_path
from lesionpipe.download.places import archive_path, images_folder

SERIES = re.compile(r"\d{6}_\d{2}_\d{2}")
HU_OFFSET = 32768  # stored value = HU + HU_OFFSET (DeepLesion's README)
MAX_SIDE = 4096  # px; DeepLesion has 512, rarely 768 and 1024
MAX_PNG_BYTES = 2 * MAX_SIDE**2 + (1 << 20)  # no honest PNG of such a slice is larger
_NAME = re.compile(rf"({SERIES.pattern})_(\d{{3,}})\.png")
_HEADER = struct.Struct(">8sI4sIIBB")  # signature, length and name of the first chunk, width, height, bit depth, colour
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
# what zipfile raises for damaged, encrypted or oddly compressed archives, beside BadZipFile
_UNREADABLE = (zipfile.BadZipFile, zlib.error, LZMAError, struct.error, EOFError, OSError, RuntimeError, ValueError)


class SliceReader(ABC):
    """Slices by official file name. Readers are picklable and may be used by several threads at a time."""

    source: str  # what messages call it
    stamps: Stamps  # of the slices that exist
    advice: str  # what to do about a bad slice

    def exists(self, file_name: str) -> bool:
        return file_name in self.stamps

    def read(self, file_name: str) -> np.ndarray:
        """int16 HU (H, W) of a slice."""
        if not self.exists(file_name):
            raise UserError(f"{self.source}: slice {file_name} is missing; {self.advice}")
        place, size = self.place(file_name), self.stamps[file_name][0]
        if size > MAX_PNG_BYTES:
            raise UserError(f"{place}: {size} bytes are no slice; {self.advice}")
        return _decoded(self.read_bytes(file_name), place, self.advice)

    @abstractmethod
    def place(self, file_name: str) -> str:
        """What messages call a slice that exists."""

    @abstractmethod
    def read_bytes(self, file_name: str) -> bytes:
        """The PNG file, which is as it was listed."""


def open_part(source: str, path: str | None, part: str, inventory: Inventory) -> SliceReader:
    """The reader of the slices that an inventory lists; a UserError where they are missing, damaged or changed."""
    relist = f"run `dvc repro -f download@{part}`, then `dvc repro`"
    if (source == "folder") != (not inventory.archive_md5):
        raise UserError(f"{inventory_path(part)}: not of dataset.source = {source}; {relist}")
    if source == "folder":
        return FolderReader(path, inventory.stamps, relist)
    ways_to_get = {
        "phantom": "run `dvc repro phantom`",
        "nih": f"run `lesionpipe fetch {part}`, which downloads it, then `dvc repro` again",
        "archives": f"copy it there again (dataset.path), run `lesionpipe fetch {part}`, which verifies it, "
        "then `dvc repro` again",
    }
    reader = ZipReader(archive_path(source, path, part), ways_to_get[source])
    if reader.stamps != inventory.stamps:
        first = min(name for name, _ in reader.stamps.items() ^ inventory.stamps.items())
        raise UserError(f"{reader.source}: slice {first} changed since it was listed; {relist}")
    return reader


class ZipReader(SliceReader):
    """Slices straight out of a zip archive, which stays open; `way_to_get` it is what messages advise."""

    def __init__(self, path: str | Path, way_to_get: str = "fetch it again") -> None:
        self.source, self._way_to_get, self.advice = str(Path(path).absolute()), way_to_get, f"delete it, {way_to_get}"
        self._zip = self._opened()
        self._members = self._slices()
        self.stamps = {name: (member.file_size, member.CRC) for name, member in self._members.items()}
        # so that a worker elsewhere can tell whether it sees the same archive
        self._digest = zlib.crc32(repr(sorted(self.stamps.items())).encode())

    def place(self, file_name: str) -> str:
        return f"{self.source}: {self._members[file_name].filename}"

    def read_bytes(self, file_name: str) -> bytes:
        try:
            return self._zip.read(self._members[file_name])  # compares the checksum
        except _UNREADABLE as error:
            raise UserError(f"{self.place(file_name)}: damaged ({error}); {self.advice}") from None

    def _opened(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.source)
        except FileNotFoundError:
            raise UserError(f"{self.source}: no such archive; {self._way_to_get}") from None
        except _UNREADABLE as error:
            raise UserError(f"{self.source}: not a whole zip archive ({error}), cut short?; {self.advice}") from None

    def _slices(self) -> dict[str, zipfile.ZipInfo]:
        """Official file name -> member."""
        members: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            path = PurePosixPath(member.filename.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise UserError(f"{self.source}: member {member.filename!r} leads outside the archive; {self.advice}")
            if name := official_name(path):
                other = members.setdefault(name, member)
                if (other.CRC, other.file_size) != (member.CRC, member.file_size):
                    raise UserError(f"{self.source}: slice {name} is there twice and differs; {self.advice}")
        return members

    def __reduce__(self) -> tuple:
        state = Path(self.source).stat()
        return _reopened, (self.source, self._way_to_get, self._digest, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _reopened(path: str, way_to_get: str, digest: int, size: int, modified_ns: int) -> ZipReader:
    """The reader that a worker keeps for all batches of one archive, recognised by its directory, size and time."""
    reader = ZipReader(path, way_to_get)
    if reader._digest != digest:
        raise UserError(f"{path}: a worker sees another archive there than the process that started it")
    return reader


class FolderReader(SliceReader):
    """Slices of an extracted folder (`Images_png` or the one that holds it), which must be as they were listed."""

    advice = "extract it again from its archive"

    def __init__(self, path: str | Path, listed: Stamps, relist: str) -> None:
        self.source, self.stamps, self._relist = str(path), listed, relist
        self._root = images_folder(path)

    def place(self, file_name: str) -> str:
        series, slice_number = split_name(file_name)
        return str(self._root / series / f"{slice_number}.png")

    def read_bytes(self, file_name: str) -> bytes:
        path = Path(self.place(file_name))
        try:
            stat = path.stat()
            if (stat.st_size, stat.st_mtime_ns) != self.stamps[file_name]:
                raise UserError(f"{path}: changed since it was listed; {self._relist}")
            return path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: no such slice; {self.advice}, or {self._relist}") from None
        except OSError as error:  # a bad disk, a share that has gone
            raise UserError(f"{path}: not readable ({error.strerror}); look at the disk, or {self.advice}") from None


def official_name(path: PurePath) -> str | None:
    """`…/000001_01_01/109.png` -> `000001_01_01_109.png`; None for anything else."""
    name = f"{path.parent.name}_{path.name}"
    return name if SERIES.fullmatch(path.parent.name) and _NAME.fullmatch(name) else None


def split_name(file_name: str) -> tuple[str, str]:
    """`000001_01_01_109.png` -> (`000001_01_01`, `109`)."""
    match = _NAME.fullmatch(file_name)
    if not match:
        raise UserError(f"file name {file_name!r} is not of the form 000001_01_01_109.png")
    return match[1], match[2]


def _decoded(png: bytes, place: str, advice: str) -> np.ndarray:
    """int16 HU (H, W) of a PNG file; `place` is what messages call it, `advice` what to do about a bad one."""
    if len(png) < _HEADER.size or png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR":
        raise UserError(f"{place}: not a PNG file; {advice}")
    _, _, _, width, height, depth, colour = _HEADER.unpack_from(png)
    if (depth, colour) != (16, 0):
        found = f"{depth}-bit {_COLOURS.get(colour, f'colour type {colour}')}"
        raise UserError(f"{place}: {found} PNG, but slices are 16-bit grey (HU + {HU_OFFSET}); {advice}")
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise UserError(f"{place}: declares {width} x {height} px, but sides are 1 to {MAX_SIDE} px; {advice}")
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2 or image.dtype != np.uint16:
        raise UserError(f"{place}: damaged PNG; {advice}")
    # value - 32768 for 16 unsigned bits is the flip of the top bit, read as signed: no wrap, no wider type
    return np.bitwise_xor(image, np.uint16(HU_OFFSET), out=image).view(np.int16)
