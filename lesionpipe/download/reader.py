"""Slices of a part of DeepLesion, out of its zip archive or out of an extracted folder, behind one face.

`open_part` gives a reader that knows which slices exist and turns one into HU. A zip is read in place: only the slices
asked for are read and decoded, nothing is extracted. Both forms hold 16-bit grey PNGs whose values are HU + 32768, as
`<any folders>/<series>/<slice>.png`; their official name is `<series>_<slice>.png`, e.g. `000001_01_01_109.png`.

Whatever is wrong with a file (damaged, not a 16-bit grey PNG, of another size than annotated, absurdly large, a path
that leads outside) is one `UserError` that names archive, member and what to do.
"""

import re
import struct
import zipfile
import zlib
from functools import cached_property, lru_cache
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Protocol

import cv2
import numpy as np

from lesionpipe.core.errors import UserError
from lesionpipe.download.archives import images_of
from lesionpipe.params import Dataset

HU_OFFSET = 32768  # stored value = HU + HU_OFFSET (DeepLesion's README)
MAX_SIDE = 4096  # px; DeepLesion has 512, rarely 768 and 1024
MAX_BYTES = 2 * MAX_SIDE**2 + (1 << 20)  # no honest PNG of such a slice is larger
_NAME = re.compile(r"(\d{6}_\d{2}_\d{2})_(\d{3,})\.png")
_SERIES = re.compile(r"\d{6}_\d{2}_\d{2}")
_SLICE = re.compile(r"\d{3,}\.png")
_PNG = struct.Struct(">8sI4sIIBB")  # signature, length and name of the first chunk, width, height, bit depth, colour
# what zipfile raises for damaged, encrypted or oddly compressed archives, beside BadZipFile
_UNREADABLE = (zipfile.BadZipFile, zlib.error, LZMAError, struct.error, EOFError, OSError, RuntimeError, ValueError)
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


class SliceReader(Protocol):
    """Slices by official file name. Readers are picklable and may be used by several threads at a time."""

    source: str  # what messages call it
    complete: bool  # whether a key slice that is absent is an error, or only not part of what lies here

    @property
    def names(self) -> set[str]:
        """Official file names of all slices that exist."""

    def exists(self, file_name: str) -> bool:
        """Whether this slice exists."""

    def read(self, file_name: str, width: int | None = None, height: int | None = None) -> np.ndarray:
        """int16 HU (H, W) of a slice; `width` and `height` are what it must have, where known."""


def open_part(dataset: Dataset, part: str, raw: str | Path = "data/raw") -> SliceReader:
    """The reader of a part: of its archive below `raw`, or of the extracted folder `dataset.path`.

    Raises:
        UserError: the archive or folder is missing, damaged or not one of DeepLesion's.
    """
    if dataset.source == "folder":
        return FolderReader(dataset.path)
    return ZipReader(images_of(part, raw), advice=f"run `dvc repro -f download@{part}`")


class ZipReader:
    """Slices straight out of a zip archive, which stays open."""

    complete = True

    def __init__(self, path: str | Path, advice: str = "fetch it again"):
        self.source = str(path)
        self._path = Path(path).absolute()
        self._advice = advice
        self._members  # noqa: B018  (a bad archive is told at once)

    @property
    def names(self) -> set[str]:
        return set(self._members)

    def exists(self, file_name: str) -> bool:
        return file_name in self._members

    def read(self, file_name: str, width: int | None = None, height: int | None = None) -> np.ndarray:
        if file_name not in self._members:
            raise UserError(f"{self.source}: slice {file_name} is missing; {self._advice}")
        member = self._members[file_name]
        return _decoded(self.read_bytes(file_name), f"{self.source}: {member.filename}", self._advice, width, height)

    def read_bytes(self, file_name: str) -> bytes:
        """The PNG file as it lies in the archive, its checksum compared."""
        member = self._members[file_name]
        if member.file_size > MAX_BYTES:
            raise UserError(f"{self.source}: {member.filename}: {member.file_size} bytes are no slice; {self._advice}")
        try:
            return self._zip.read(member)
        except _UNREADABLE as error:
            raise UserError(f"{self.source}: {member.filename}: damaged ({error}); {self._advice}") from None

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self._path)
        except FileNotFoundError:
            raise UserError(f"{self.source}: no such archive; {self._advice}") from None
        except _UNREADABLE as error:
            raise UserError(f"{self.source}: not a whole zip archive ({error}), cut short?; {self._advice}") from None

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        """Official file name -> member."""
        members: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            path = PurePosixPath(member.filename.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise UserError(f"{self.source}: member {member.filename!r} leads outside the archive; {self._advice}")
            name = official_name(path)
            if name and _differ(members.setdefault(name, member), member):
                raise UserError(f"{self.source}: slice {name} is there twice and differs; {self._advice}")
        return members

    def __reduce__(self) -> tuple:
        state = self._path.stat()
        return _reopened, (self._path, self.source, self._advice, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _reopened(path: Path, source: str, advice: str, size: int, modified_ns: int) -> ZipReader:
    """The reader that a worker keeps for all batches of one archive (told apart by size and time)."""
    reader = ZipReader(path, advice)
    reader.source = source
    return reader


class FolderReader:
    """Slices of an extracted folder (`Images_png` or the one that holds it), of which some may be absent."""

    complete = False

    def __init__(self, path: str | Path):
        inner = Path(path) / "Images_png"
        self._root = (inner if inner.is_dir() else Path(path)).absolute()
        self.source = str(path)
        self._listed: dict[str, set[str]] = {}
        if not self._root.is_dir():
            raise UserError(f"{path}: no such folder; dataset.path names the one that holds Images_png")

    @property
    def names(self) -> set[str]:
        series = [folder.name for folder in self._root.iterdir() if _SERIES.fullmatch(folder.name)]
        return {f"{one}_{slice_name}" for one in series for slice_name in self._slices(one)}

    def exists(self, file_name: str) -> bool:
        match = _NAME.fullmatch(file_name)
        return bool(match) and f"{match[2]}.png" in self._slices(match[1])

    def read(self, file_name: str, width: int | None = None, height: int | None = None) -> np.ndarray:
        series, slice_number = split_name(file_name)
        path = self._root / series / f"{slice_number}.png"
        advice = "extract it again from its archive"
        if not path.is_file():
            raise UserError(f"{path}: no such slice; {advice}")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: {path.stat().st_size} bytes are no slice; {advice}")
        try:
            content = path.read_bytes()
        except OSError as error:  # a bad disk, a share that has gone
            raise UserError(f"{path}: not readable ({error.strerror}); look at the disk, or {advice}") from None
        return _decoded(content, str(path), advice, width, height)

    def _slices(self, series: str) -> set[str]:
        """File names in the folder of a series, listed once: a shared disk answers that faster than many questions."""
        if series not in self._listed:
            folder = self._root / series
            found = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
            self._listed[series] = {name for name in found if _SLICE.fullmatch(name)}
        return self._listed[series]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_listed": {}}


def official_name(path: PurePosixPath) -> str | None:
    """`…/000001_01_01/109.png` -> `000001_01_01_109.png`; None for anything else."""
    if len(path.parts) < 2 or not _SERIES.fullmatch(path.parts[-2]) or not _SLICE.fullmatch(path.name):
        return None
    return f"{path.parts[-2]}_{path.name}"


def split_name(file_name: str) -> tuple[str, str]:
    """`000001_01_01_109.png` -> (`000001_01_01`, `109`)."""
    match = _NAME.fullmatch(file_name)
    if not match:
        raise UserError(f"file name {file_name!r} is not of the form 000001_01_01_109.png")
    return match[1], match[2]


def _differ(a: zipfile.ZipInfo, b: zipfile.ZipInfo) -> bool:
    return (a.CRC, a.file_size) != (b.CRC, b.file_size)


def _decoded(png: bytes, place: str, advice: str, width: int | None, height: int | None) -> np.ndarray:
    """int16 HU (H, W) of a PNG file."""
    _check_header(png, place, advice, width, height)
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2 or image.dtype != np.uint16:
        raise UserError(f"{place}: damaged PNG; {advice}")
    # value - 32768 for 16 unsigned bits is the flip of the top bit, read as signed: no wrap, no wider type
    return np.bitwise_xor(image, np.uint16(HU_OFFSET), out=image).view(np.int16)


def _check_header(png: bytes, place: str, advice: str, width: int | None, height: int | None) -> None:
    """Look at what a PNG declares before anything is decoded, so that a lie cannot fill the memory."""
    if len(png) < _PNG.size or png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR":
        raise UserError(f"{place}: not a PNG file; {advice}")
    _, _, _, w, h, depth, colour = _PNG.unpack_from(png)
    if (depth, colour) != (16, 0):
        found = f"{depth}-bit {_COLOURS.get(colour, f'colour type {colour}')}"
        raise UserError(f"{place}: {found} PNG, but slices are 16-bit grey (HU + {HU_OFFSET}); {advice}")
    if not (0 < w <= MAX_SIDE and 0 < h <= MAX_SIDE):
        raise UserError(f"{place}: declares {w} x {h} px, more than {MAX_SIDE} x {MAX_SIDE}; {advice}")
    if (width or w, height or h) != (w, h):
        raise UserError(f"{place}: {w} x {h} px, but annotated as {width} x {height} px (Image_size); {advice}")
