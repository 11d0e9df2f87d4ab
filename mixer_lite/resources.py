"""Where files lie: those that come with the project, and those that it has downloaded."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _folder(in_checkout: str, in_wheel: str) -> Path:
    # A checkout (or editable install) has the folder beside the package, a wheel inside it.
    for folder in (_PACKAGE / in_wheel, _PACKAGE.parent / in_checkout):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"Mixer Lite's {in_checkout} folder is missing beside or inside {_PACKAGE}: "
        f"install the project again."
    )


def data_path(name: str) -> Path:
    """Path of a bundled file, for example ``"photos/cat.jpg"``.

    Raises:
        FileNotFoundError: no such file comes with the project.
    """
    path = _folder("data", "_data") / name
    if not path.exists():
        raise FileNotFoundError(f"No file {name!r} comes with Mixer Lite (looked for {path}).")
    return path


def notebooks_path() -> Path:
    """Folder of the course's notebooks."""
    return _folder("notebooks", "_notebooks")


def cache_folder(chosen: str | Path | None = None) -> Path:
    """Folder for what is downloaded: chosen, else ``MIXER_LITE_CACHE``, else the platform's."""
    import pooch

    folder = chosen or os.environ.get("MIXER_LITE_CACHE") or pooch.os_cache("mixer-lite")
    return Path(folder).expanduser()


def replace_file(path: Path, content: bytes) -> None:
    """The file with this content, whole; when that fails, the file as it was.

    Raises:
        OSError: the disk takes no more, or there is no such folder.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def reason(error: BaseException, width: int = 150) -> str:
    """What an error says, on one line of no more than so many characters."""
    return textwrap.shorten(str(error) or type(error).__name__, width, placeholder=" ...")
