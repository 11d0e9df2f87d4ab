"""Runs a command in a new root that holds only what it is shown; Linux alone.

    unshare --user --map-root-user --mount --net --ipc --uts --pid --fork --kill-child \
        python -I box.py PLAN COMMAND ...

PLAN is a JSON object:

* ``root``: an empty folder, where the new root is put together;
* ``megabytes``: what may be written in the new root, which lies in memory;
* ``shown``: files and folders that are there to read, at their own places, none in another;
* ``covered``: folders in those that look empty;
* ``sockets``: the one folder that is shared, until the command says that it needs it no more: it
  writes a byte to the descriptor ``MIXER_LITE_DOOR`` and waits for one;
* ``given``: a folder whose contents are copied into ``/box/work``, where the command starts;
* ``env``: all of the command's environment.

This process stays behind as the first of the box, with the rights that the command has not.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# linux/mount.h
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
DETACH = 2
# What statvfs() tells of a mount, and the flag that keeps it so: a remount may not take it away.
KEPT = {1: 1, 2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}
DEVICES = ("null", "zero", "full", "random", "urandom")
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    """Call a function of the system's library.

    Raises:
        OSError: it says that it failed.
    """
    sent = [a.encode() if isinstance(a, str) else a for a in arguments]
    if getattr(_libc, name)(*sent):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}{arguments}: {os.strerror(code)}")


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str = "") -> None:
    call("mount", source, str(target), kind, ctypes.c_ulong(flags), options or None)


def _mounts_in(root: Path) -> Iterator[Path]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split(" ")[4].encode().decode("unicode_escape").encode("latin-1")
        path = Path(os.fsdecode(place))  # a blank in a path is written \040
        if path != root and path.is_relative_to(root):
            yield path


def _show(root: Path, place: str) -> None:
    target = root / place.lstrip("/")
    if os.path.isdir(place):
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(place, target, None, BIND | RECURSIVE)


def build(plan: dict[str, Any]) -> Path:
    """Put the new root together; everything in it that is shown is read-only.

    Raises:
        OSError: the system refuses one of the steps.
    """
    root = Path(plan["root"])
    _mount("none", Path("/"), None, RECURSIVE | PRIVATE)
    _mount("none", root, "tmpfs", NO_SUID | NO_DEVICES, f"mode=755,size={plan['megabytes']}m")
    for place in plan["shown"]:
        if os.path.exists(place):
            _show(root, place)
    for device in DEVICES:
        _show(root, f"/dev/{device}")
    for place in _mounts_in(root):
        state = os.statvfs(place).f_flag
        flags = sum(flag for told, flag in KEPT.items() if state & told)
        _mount("none", place, None, REMOUNT | BIND | READ_ONLY | flags)
    for place in plan["covered"]:
        target = root / place.lstrip("/")
        if target.is_dir():
            _mount("none", target, "tmpfs", READ_ONLY, "size=4k,mode=755")
    for name in ("proc", "tmp", "dev/shm", "box/work", "box/home", plan["sockets"].lstrip("/")):
        (root / name).mkdir(parents=True, exist_ok=True)
    _mount(plan["sockets"], root / plan["sockets"].lstrip("/"), None, BIND)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc" / "passwd").write_text("student:x:0:0::/box/home:/bin/sh\n")
    (root / "dev" / "fd").symlink_to("/proc/self/fd")
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        link = Path("/", name)
        if link.is_symlink() and not (root / name).exists():
            (root / name).symlink_to(os.readlink(link))
    shutil.copytree(
        plan["given"], root / "box" / "work", copy_function=shutil.copyfile, dirs_exist_ok=True
    )
    return root


def enter(root: Path) -> None:
    """Leave the old root for good, and let nobody make a new one."""
    _mount("proc", root / "proc", "proc", NO_SUID | NO_DEVICES | NO_EXEC)
    os.chdir(root)
    call("pivot_root", ".", ".")
    call("umount2", ".", DETACH)
    os.chdir("/box/work")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    flags = NO_SUID | NO_DEVICES | NO_EXEC
    _mount("none", Path("/proc"), None, REMOUNT | BIND | READ_ONLY | flags)


def close_but(*kept: int) -> None:
    """Close all descriptors but the standard ones and these."""
    last = 2
    for one in sorted(kept):
        os.closerange(last + 1, one)
        last = one
    os.closerange(last + 1, 4096)


def dwell(plan: dict[str, Any], run: Callable[[dict[str, str]], None], *kept: int) -> None:
    """Build the box and start a process in it, of which this one is the first.

    This process stays, closes the shared folder when it is asked to, and waits for the end. In the
    new one ``run`` is called with its environment, and the descriptors in ``kept`` are open; if it
    returns, so does this function.
    """
    enter(build(plan))
    mine, theirs = socket.socketpair()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the command
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        mine.detach()
        door = theirs.detach()
        close_but(door, *kept)
        os.set_inheritable(door, True)
        run({**plan["env"], "MIXER_LITE_DOOR": str(door)})
        return
    theirs.close()
    for standard in range(3):
        os.dup2(os.open("/dev/null", os.O_RDWR), standard)
    if mine.recv(1):
        call("umount2", plan["sockets"], DETACH)
        mine.send(b".")
    mine.close()
    while True:  # the first process of a box also buries those that others left behind
        ended, status = os.wait()
        if ended == child:
            os._exit(os.waitstatus_to_exitcode(status) & 255)


def main() -> None:
    """The command."""
    plan, command = json.loads(sys.argv[1]), [*WITHOUT_RIGHTS, *sys.argv[2:]]
    dwell(plan, lambda env: os.execvpe(command[0], command, env))


if __name__ == "__main__":
    main()
