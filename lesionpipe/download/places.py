"""Where the slices of a part lie: in the phantom's archive, in an archive of DeepLesion, or in an extracted folder.

`dataset.path` names the folder of archives (nih, archives) or the extracted folder (folder); a relative path is sought
in the working folder. Messages name absolute paths, because an experiment of DVC may run in another folder.
"""

from pathlib import Path

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import scratch_folder

PHANTOM = Path("data/phantom")  # NN/: what the stage `phantom` leaves of a part


def archive_path(source: str, path: str | None, part: str) -> Path:
    """Absolute path at which the archive of a part is expected (source: phantom, nih or archives)."""
    folder = PHANTOM / part if source == "phantom" else archives_folder(path)
    return folder.absolute() / f"Images_png_{part}.zip"


def archives_folder(path: str | None) -> Path:
    """The absolute folder in which archives lie, and into which nih's are downloaded; None: `downloads` in scratch."""
    return (Path(path) if path else scratch_folder() / "downloads").absolute()


def images_folder(path: str | Path) -> Path:
    """The absolute folder of series folders, which `path` is or holds as `Images_png`; a UserError if it is missing."""
    root = Path(path).absolute()
    if (root / "Images_png").is_dir():
        return root / "Images_png"
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; dataset.path must name Images_png or the folder that holds it")
    return root
