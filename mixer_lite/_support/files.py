"""Where files lie, those that come with the project and those downloaded; how one is replaced."""

from __future__ import annotations

import inspect
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL = ".partial"  # how the name of a file ends that is being written
_PACKAGE = Path(__file__).resolve().parents[1]


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
    return _folder("notebooks", "_book/notebooks")


def book_page() -> Path:
    """First page of the web book, where it was built or came with the package.

    Raises:
        FileNotFoundError: there is none.
    """
    for page in (_PACKAGE / "_book/index.html", _PACKAGE.parent / "book/index.html"):
        if page.is_file():
            return page
    raise FileNotFoundError(
        "There is no web book here: in a checkout of Mixer Lite, 'make book' builds it."
    )


def cache_folder(chosen: str | Path | None = None) -> Path:
    """Folder for what is downloaded: chosen, else ``MIXER_LITE_CACHE``, else the platform's."""
    import pooch

    folder = chosen or os.environ.get("MIXER_LITE_CACHE") or pooch.os_cache("mixer-lite")
    return Path(folder).expanduser()


class WrongFileError(ValueError):
    """A file that came, or was given, is not the published one."""


def bounded(most: float, bar: Any = None) -> Any:
    """A class of progress bars that stop a download which grows too large, packed or unpacked.

    Args:
        most: bytes of the file; two MiB more are accepted.
        bar: the class to make it of; tqdm's own if not given.
    """
    from tqdm import tqdm

    class Bar(bar or tqdm):  # type: ignore[misc]
        came = 0.0

        def update(self, n: float | None = 1) -> bool:
            self.came += n or 0
            if self.came > most + 2**21:
                raise WrongFileError(
                    f"more came than the published {most / 2**20:.2f} MiB, and was stopped"
                )
            return bool(super().update(n))

        def reset(self, total: float | None = None) -> None:
            self.came = -math.inf  # the download is complete: what follows only redraws the bar
            super().reset(total)

    return Bar


def hub_download(most: float, *args: Any, **options: Any) -> Path:
    """``hf_hub_download``, stopped when more than ``most`` bytes have come.

    Older releases of the client cannot be stopped: they compare sizes at the end.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm

    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        options["tqdm_class"] = bounded(most, tqdm)
    return Path(hf_hub_download(*args, **options))


@contextmanager
def replaced(path: str | Path, *, before: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write in place of ``path``, which it becomes when all is written and on the disk.

    When anything fails, ``path`` stays as it was. The unfinished file has a random new name, so
    nothing is written through a file or link that is already there.

    Args:
        path: the file to replace, or to make.
        before: what a file that is there now is called from then on.

    Raises:
        OSError: the disk takes no more, or there is no such folder.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    with partial.open("xb") as file:  # x: fails where anything exists, even a link
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            file.close()  # Windows cannot move an open file
            if before is not None and path.exists():
                os.replace(path, before)
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):  # there may be no room for the rest either
                file.close()
            partial.unlink(missing_ok=True)
            raise


def sweep(folder: Path, name: str = "") -> None:
    """Delete unfinished files whose names begin so; nothing may be writing there."""
    for path in folder.iterdir():
        if path.name.startswith(name) and path.name.endswith(PARTIAL):
            path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a run's folder, if there is none.

    Raises:
        OSError: there is a file of that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OSError(f"{folder} is or lies in a file: give a folder for the run.") from None
