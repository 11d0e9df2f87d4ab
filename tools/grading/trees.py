"""Deleting what somebody else made, however deep it is."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path


def delete(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it; nothing happens if it is not there.

    No link is followed. A folder in the folder is first moved up beside the others, so that no path
    grows longer than the system takes.
    """
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return
    number, waiting, mark = 0, [path], secrets.token_hex(8)
    while waiting:
        folder = waiting[-1]
        inner = []
        with contextlib.suppress(OSError):
            os.chmod(folder, stat.S_IRWXU)
        with os.scandir(folder) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    inner.append(entry.path)
                else:
                    os.unlink(entry.path)
        if not inner:
            folder.rmdir()
            waiting.pop()
        for old in inner:
            number += 1
            new = path / f"{mark}-{number}"
            with contextlib.suppress(OSError):
                os.chmod(old, stat.S_IRWXU)
            os.rename(old, new)
            waiting.append(new)
