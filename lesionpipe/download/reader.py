"""Slices of a part, out of its zip archive or out of an extracted folder, through one interface.

`open_part` gives a reader that knows which slices exist and turns one into HU. A zip is read in place: only the slices
asked for are read and decoded, nothing is extracted. Both forms hold slices as `<any folders>/<series>/<slice>.png`;
their official name is `<series>_<slice>.png`, e.g. `000001_01_01_109.png`.

The inventory of the part decides which slices exist, and each one read is compared with it: archives and folders are no
outputs of DVC, and what is made from them must be what DVC believes. Whatever is wrong with a file (changed, damaged,
not a 16-bit grey PNG, of another size than annotated, absurdly large, a path that leads outside) is one `UserError`
that names archive, member and what to do.
"""

import re
import struct
import zipfile
import zlib
from functools import cached_property, lru_cache
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from lesionpipe.core.errors import UserError
from lesionpipe.download.inventory import Inventory, Stamps, inventory_path
from lesionpipe.download.places import archive_path, images_folder
from lesionpipe.download.png import MAX_PNG_BYTES, decode_slice

SERIES = re.compile(r"\d{6}_\d{2}_\d{2}")
_NAME = re.compile(r"(\d{6}_\d{2}_\d{2})_(\d{3,})\.png")
_SLICE = re.compile(r"\d{3,}\.png")
# what zipfile raises for damaged, encrypted or oddly compressed archives, beside BadZipFile
_UNREADABLE = (zipfile.BadZipFile, zlib.error, LZMAError, struct.error, EOFError, OSError, RuntimeError, ValueError)


class SliceReader(Protocol):
    """Slices by official file name. Readers are picklable and may be used by several threads at a time."""

    source: str  # what messages call it

    @property
    def names(self) -> set[str]:
        """Official file names of all slices that exist."""

    def exists(self, file_name: str) -> bool:
        """Whether this slice exists."""

    def read(self, file_name: str, width: int | None = None, height: int | None = None) -> np.ndarray:
        """int16 HU (H, W) of a slice; `width` and `height` are what it must have, where known."""


def open_part(source: str, path: str | None, part: str, inventory: Inventory) -> SliceReader:
    """The reader of the slices that a part's inventory lists.

    Args:
        source: phantom, nih, archives or folder (`dataset.source`).
        path: the folder of archives or the extracted folder (`dataset.path`).

    Raises:
        UserError: the archive or folder is missing, damaged, or not what the inventory lists.
    """
    relist = f"run `dvc repro -f download@{part}`, then `dvc repro`"
    if (source == "folder") != (not inventory.archive_md5):
        raise UserError(f"{inventory_path(part)}: not of dataset.source = {source}; {relist}")
    if source == "folder":
        return FolderReader(path, inventory.stamps(), relist)
    archive = archive_path(source, path, part)
    if not archive.is_file():
        raise UserError(f"{archive}: no such archive; {_way_to_get(source, part)}")
    way = _way_to_get(source, part)
    advice = f"run `dvc repro -f phantom@{part}`" if source == "phantom" else f"delete it and {way}"
    return ZipReader(archive, advice, inventory.stamps(), relist)


def _way_to_get(source: str, part: str) -> str:
    if source == "phantom":
        return f"run `dvc repro phantom@{part}`"
    if source == "nih":
        return f"run `lesionpipe fetch {part}`, which downloads it, then `dvc repro` again"
    checked = f"run `lesionpipe fetch {part}`, which verifies it, then `dvc repro` again"
    return f"copy it there again (dataset.path), {checked}"


class ZipReader:
    """Slices straight out of a zip archive, which stays open; `listed` is what its slices must be like, where known."""

    def __init__(
        self, path: str | Path, advice: str = "fetch it again", listed: Stamps | None = None, relist: str = ""
    ) -> None:
        self.source = str(path)
        self._path = Path(path).absolute()
        self._advice = advice
        self.stamps = {name: (member.file_size, member.CRC) for name, member in self._members.items()}
        if listed is not None and self.stamps != listed:
            first = min(name for name, _ in self.stamps.items() ^ listed.items())
            raise UserError(f"{self.source}: slice {first} changed since it was listed; {relist}")

    @property
    def names(self) -> set[str]:
        return set(self._members)

    def exists(self, file_name: str) -> bool:
        return file_name in self._members

    def read(self, file_name: str, width: int | None = None, height: int | None = None) -> np.ndarray:
        if file_name not in self._members:
            raise UserError(f"{self.source}: slice {file_name} is missing; {self._advice}")
        member = self._members[file_name]
        content, place = self.read_bytes(file_name), f"{self.source}: {member.filename}"
        return decode_slice(content, place, self._advice, width, height)

    def read_bytes(self, file_name: str) -> bytes:
        """The PNG file as it lies in the archive, its checksum compared."""
        member = self._members[file_name]
        if member.file_size > MAX_PNG_BYTES:
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

    @cached_property
    def _digest(self) -> int:
        """Of the archive's directory, so that a worker elsewhere can tell whether it sees the same archive."""
        return zlib.crc32(repr(sorted(self.stamps.items())).encode())

    def __reduce__(self) -> tuple:
        state = self._path.stat()
        return _reopened, (self._path, self.source, self._advice, self._digest, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _reopened(path: Path, source: str, advice: str, digest: int, size: int, modified_ns: int) -> ZipReader:
    """The reader that a worker keeps for all batches of one archive, recognised by its directory, size and time."""
    reader = ZipReader(path, advice)
    reader.source = source
    if reader._digest != digest:
        raise UserError(f"{path}: a worker sees another archive there than the process that started it")
    return reader


class FolderReader:
    """Slices of an extracted folder (`Images_png` or the one that holds it); `listed` is what they must be like."""

    def __init__(self, path: str | Path, listed: Stamps | None = None, relist: str = "") -> None:
        self._root = images_folder(path)
        self.source = str(path)
        self._listed, self._relist = listed, relist
        self._found: dict[str, set[str]] = {}

    @property
    def names(self) -> set[str]:
        if self._listed is not None:
            return set(self._listed)
        series = [folder.name for folder in self._root.iterdir() if SERIES.fullmatch(folder.name)]
        return {f"{one}_{slice_name}" for one in series for slice_name in self._slices(one)}

    def exists(self, file_name: str) -> bool:
        if self._listed is not None:
            return file_name in self._listed
        match = _NAME.fullmatch(file_name)
        return bool(match) and f"{match[2]}.png" in self._slices(match[1])

    def read(self, file_name: str, width: int | None = None, height: int | None = None) -> np.ndarray:
        series, slice_number = split_name(file_name)
        path = self._root / series / f"{slice_number}.png"
        advice = "extract it again from its archive"
        try:
            self._check(file_name, path, advice)
            content = path.read_bytes()
        except FileNotFoundError:
            listed_anew = f", or {self._relist}" if self._relist else ""
            raise UserError(f"{path}: no such slice; {advice}{listed_anew}") from None
        except OSError as error:  # a bad disk, a share that has gone
            raise UserError(f"{path}: not readable ({error.strerror}); look at the disk, or {advice}") from None
        return decode_slice(content, str(path), advice, width, height)

    def _check(self, file_name: str, path: Path, advice: str) -> None:
        """Compare a slice with the inventory."""
        stat = path.stat()
        if stat.st_size > MAX_PNG_BYTES:
            raise UserError(f"{path}: {stat.st_size} bytes are no slice; {advice}")
        if self._listed is None:
            return
        if file_name not in self._listed:
            raise UserError(f"{path}: not listed when the folder was read; {self._relist}")
        if (stat.st_size, stat.st_mtime_ns) != self._listed[file_name]:
            raise UserError(f"{path}: changed since it was listed; {self._relist}")

    def _slices(self, series: str) -> set[str]:
        """File names in the folder of a series, listed once: a shared disk answers that faster than many questions."""
        if series not in self._found:
            folder = self._root / series
            found = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
            self._found[series] = {name for name in found if _SLICE.fullmatch(name)}
        return self._found[series]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_found": {}}


def official_name(path: PurePosixPath) -> str | None:
    """`…/000001_01_01/109.png` -> `000001_01_01_109.png`; None for anything else."""
    if len(path.parts) < 2 or not SERIES.fullmatch(path.parts[-2]) or not _SLICE.fullmatch(path.name):
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
