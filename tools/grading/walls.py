"""What a submission's process is shown, started with, and held to."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OFFLINE = ROOT / "tools" / "offline"
ORPHANS_DIE = ["setpriv", "--pdeathsig", "KILL", "--"]
NAMESPACES = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--ipc", "--uts", "--pid",
              "--fork", "--kill-child"]  # fmt: skip
PROCESSES = 256
LOOK = 0.25  # seconds between two looks at what a box uses

# Of the system: libraries, their list, fonts, the time zone, what a processor can do.
SYSTEM = ("/usr", "/nix/store", "/gnu/store", "/etc/ld.so.cache", "/etc/ld.so.conf",
          "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/fonts", "/etc/localtime",
          "/sys/devices/system/cpu", "/sys/devices/system/node")  # fmt: skip
LINKED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
# Of the environment: where programs and libraries are, nothing else.
PASSED_ON = ("LD_LIBRARY_PATH", "SYSTEMROOT", "WINDIR", "SYSTEMDRIVE", "COMSPEC", "PATHEXT")


class Exposed(Exception):
    """Something that is to stay hidden lies where a submission has to look."""


@dataclass(frozen=True)
class Limits:
    """What a submission may use: seconds for a cell and in all, megabytes of all its processes."""

    cell: int = 60
    total: int = 600
    memory: int = 3000


@dataclass(frozen=True)
class View:
    """What a box shows of this system, and the folders in it that look empty."""

    shown: tuple[str, ...]
    covered: tuple[str, ...]


def view(secret: list[Path]) -> View:
    """Python, its packages, ours, and the system's libraries; nothing of what is secret.

    Raises:
        Exposed: a secret folder cannot be told from one that is needed.
    """
    packages = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix,
              *sysconfig.get_paths().values(), *packages]  # fmt: skip
    link = Path(sys.executable)
    while link.is_symlink():  # each of the links on the way to Python itself
        link = link.parent / os.readlink(link)
        python.append(os.path.normpath(link.parent))
    ours = [ROOT / "mixer_lite", ROOT / "data", HERE]
    system = [*SYSTEM, *(place for place in LINKED if not Path(place).is_symlink())]
    named = [Path(p) for p in [*system, *python, *ours] if os.path.exists(p)]
    wanted = {*named, *(path.resolve() for path in named)}  # there may be links on the way
    shown: list[Path] = []
    for path in sorted(wanted):  # those within others are there already
        if not any(path.is_relative_to(outer) for outer in shown):
            shown.append(path)
    covered = []
    for folder in dict.fromkeys(path.resolve() for path in secret):
        inside = any(folder.is_relative_to(path) for path in shown)
        around = any(path.is_relative_to(folder) for path in wanted)
        if inside and around:
            raise Exposed(
                f"{folder} is, or holds, a part of what every submission has to see (Python, its "
                f"packages, this project's): choose another folder."
            )
        if inside:
            covered.append(folder)
    return View(tuple(map(str, shown)), tuple(map(str, covered)))


@dataclass
class Box:
    """Where a submission's kernel runs: a new one each time it starts.

    Attributes:
        folder: of this submission, for the grader alone; ``given`` in it holds the submission's
            files. Without walls the kernel works in ``work``, beside it.
        view: what the kernel sees; ``None`` where this system has no walls.
        limits: of the submission.
        events: sentences about what happened.
        envelope: what the kernel is told when it starts.
        nursery: the line to a process that forks kernels (see nursery.py); ``None``: each kernel
            loads its libraries itself.
    """

    folder: Path
    view: View | None
    limits: Limits
    events: list[str] = field(default_factory=list)
    envelope: dict[str, Any] = field(default_factory=dict)
    nursery: socket.socket | None = None
    starts: int = 0
    _letters: int = -1
    _bell: int = -1

    @property
    def work(self) -> Path:
        """Where the kernel starts, as this process sees it."""
        return self.folder / ("given" if self.view else "work")

    def fresh(self) -> Path:
        """A new folder for the sockets of a new kernel."""
        self.starts += 1
        sockets = self.folder / f"s{self.starts}"
        for path in (sockets, self.folder / "root", self.folder / "given"):
            path.mkdir(parents=True, exist_ok=True)
        if not self.view:
            shutil.copytree(self.folder / "given", self.folder / "work", dirs_exist_ok=True)
            (self.folder / "home").mkdir(exist_ok=True)
        return sockets

    def environment(self) -> dict[str, str]:
        """All of the kernel's environment."""
        home = "/box/home" if self.view else str(self.folder / "home")
        paths = [str(ROOT), *([] if self.view else [str(OFFLINE)])]
        homes = ("HOME", "USERPROFILE", "IPYTHONDIR", "MPLCONFIGDIR", "TORCH_HOME", "HF_HOME",
                 "XDG_CACHE_HOME", "MIXER_LITE_CACHE", "JUPYTER_RUNTIME_DIR")  # fmt: skip
        system = "/usr/local/bin:/usr/bin:/bin" if self.view else os.environ.get("PATH", "")
        return {
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
            **dict.fromkeys(homes, home),
            **dict.fromkeys(("TMPDIR", "TMP", "TEMP"), "/tmp" if self.view else home),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), system]),
            "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1", "LANG": "C.UTF-8",
            "USER": "student", "LOGNAME": "student", "USERNAME": "student",
            "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }  # fmt: skip

    def command(self, sockets: Path, *command: str) -> list[str]:
        """The command that runs another one in this box."""
        if self.view is None:
            return list(command)
        dies = ORPHANS_DIE if shutil.which(ORPHANS_DIE[0]) else []
        python = [sys.executable, "-I", str(HERE / "box.py"), json.dumps(self.plan(sockets))]
        return [*dies, *_scope(self.limits.memory), *NAMESPACES, *python, *command]

    def plan(self, sockets: Path) -> dict[str, Any]:
        """What box.py is told."""
        assert self.view
        return {
            "root": str(self.folder / "root"), "megabytes": max(16, self.limits.memory // 4),
            "shown": self.view.shown, "covered": self.view.covered, "sockets": str(sockets),
            "given": str(self.folder / "given"), "env": self.environment(),
        }  # fmt: skip

    def connect(self) -> tuple[int, int]:
        """New pipes to and from a kernel; its two ends."""
        self.hang_up()
        stdin, self._letters = os.pipe()
        self._bell, stdout = os.pipe()
        os.set_blocking(self._bell, False)
        self.tell({
            **self.envelope, "memory": self.limits.memory,
            "processes": PROCESSES if self.view else 0,
        })  # fmt: skip
        return stdin, stdout

    def hang_up(self) -> None:
        """Close this process's ends of the pipes."""
        for end in (self._letters, self._bell):
            if end >= 0:
                os.close(end)
        self._letters = self._bell = -1

    def tell(self, letter: Any) -> None:
        """Send something to the kernel; nothing happens when it has ended."""
        with contextlib.suppress(OSError):
            os.write(self._letters, json.dumps(letter).encode() + b"\n")

    def heard(self) -> str:
        """What the tripwire has told since the last time, or that it was cut; else empty."""
        try:
            told = os.read(self._bell, 4096)
        except BlockingIOError:
            return ""
        except OSError:
            told = b""
        words = told.decode("ascii", "replace").split("\n")[0]
        return words if words.isprintable() and words else "it closed the grader's pipe"

    def watch(self, process: subprocess.Popen[bytes] | Born) -> None:
        """Stop a kernel when all its processes and files take more memory than it may have."""
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes] | Born) -> None:
        most = self.limits.memory * 2**20
        while process.poll() is None:
            time.sleep(LOOK)
            try:
                number, size = used(process.pid, most)
            except (psutil.Error, OSError):
                continue
            if size > most or number > PROCESSES:
                what = f"{PROCESSES} processes" if size <= most else f"{most >> 20} MB in all"
                self.events.append(f"the program was stopped: it used more than {what}")
                for one in [process, *psutil.Process(process.pid).children(recursive=True)]:
                    with contextlib.suppress(psutil.Error, OSError):
                        one.kill()


class Born:
    """A kernel that the nursery forked, with what is needed of :class:`subprocess.Popen`.

    Raises:
        OSError: the nursery did not answer.
    """

    stdin = stdout = stderr = None

    def __init__(self, nursery: socket.socket, plan: dict[str, Any], ends: tuple[int, int]) -> None:
        self.returncode: int | None = None
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            message = json.dumps(plan).encode()
            socket.send_fds(nursery, [message], [*ends, theirs.fileno()])
        self.line.settimeout(60)
        if not (told := self.line.recv(20)):
            raise OSError("The nursery has ended.")
        self.pid = int(told)
        self.line.setblocking(False)

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        if self.returncode is None:
            with contextlib.suppress(BlockingIOError):
                self.returncode = int(self.line.recv(20) or -9)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it has ended."""
        until = time.monotonic() + (timeout or float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("kernel", timeout or 0)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def nursery(box: Box) -> Iterator[socket.socket | None]:
    """A process that forks kernels for all submissions; ``None`` where each is to load its own.

    systemd's limit holds for what it started itself, so there each kernel is started.
    """
    if box.view is None or _scope(box.limits.memory):
        yield None
        return
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    box.folder.mkdir(parents=True, exist_ok=True)
    env = {**box.environment(), "MPLCONFIGDIR": str(box.folder)}  # where fonts are noted down
    command = [*ORPHANS_DIE, sys.executable, str(HERE / "kernel.py"), "--nursery"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with mine, subprocess.Popen(command, stdin=theirs, env=env, **quiet) as process:
        theirs.close()
        try:
            yield mine
        finally:
            mine.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def used(pid: int, most: int) -> tuple[int, int]:
    """How many processes a process started, and the bytes that they and their files take.

    Memory that several share counts once; to find out takes time, so it is done only when the
    rougher count is above ``most``.
    """
    inside = psutil.Process(pid).children(recursive=True) or [psutil.Process(pid)]
    files = 0
    if sys.platform == "linux":
        unnamed = {}  # files that have no place in the file system: memfd_create()
        for process in inside:
            with contextlib.suppress(OSError):
                for name in os.listdir(f"/proc/{process.pid}/fd"):
                    path = f"/proc/{process.pid}/fd/{name}"
                    with contextlib.suppress(OSError):
                        if os.readlink(path).startswith("/memfd:"):
                            told = os.stat(path)
                            unnamed[told.st_ino] = told.st_blocks * 512
        files = sum(unnamed.values())
        with contextlib.suppress(OSError):
            if os.stat(root := f"/proc/{inside[0].pid}/root").st_dev != os.stat("/").st_dev:
                space = os.statvfs(root)
                files += (space.f_blocks - space.f_bfree) * space.f_frsize
    size = files
    for precise in (False, True):
        size = files
        for process in inside:
            with contextlib.suppress(psutil.Error, OSError):
                if precise and hasattr(full := process.memory_full_info(), "pss"):
                    size += full.pss
                else:
                    size += process.memory_info().rss
        if size <= most:
            break
    return len(inside), size


@functools.cache
def _scope(megabytes: int) -> list[str]:
    # The system's own limit for a group of processes, where systemd gives one to its users.
    if not shutil.which("systemd-run"):
        return []
    scope = [
        "systemd-run", *(["--user"] if os.getuid() else []), "--scope", "--quiet", "--collect",
        "-p", f"MemoryMax={megabytes}M", "-p", "MemorySwapMax=0", "-p", f"TasksMax={PROCESSES}",
    ]  # fmt: skip
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        tried = subprocess.run([*scope, "true"], capture_output=True, check=False, timeout=10)
        if tried.returncode == 0:
            return scope
    return []


def walls_stand(folder: Path) -> bool:
    """Whether a command in a box runs on this system.

    Args:
        folder: a new or empty one, for trying.
    """
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "setpriv"))):
        return False
    box = Box(folder, view([]), Limits())
    tried = box.command(box.fresh(), sys.executable, "-c", "import ipykernel, mixer_lite")
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


class BoxManager(AsyncKernelManager):
    """Starts kernels in a box, from a specification that lies in no file.

    ``box`` is set before use.
    """

    box: Box

    def __init__(self, **settings: Any) -> None:
        sockets = self.box.fresh()
        settings["transport"] = "ipc" if self.box.view else "tcp"  # a box has no network
        super().__init__(connection_file=str(sockets / "k.json"), **settings)
        kernel = [sys.executable, str(HERE / "kernel.py"), "-f", "{connection_file}"]
        self._kernel_spec = KernelSpec(
            argv=self.box.command(sockets, *kernel, "--log-level=ERROR"),
            display_name="Python 3", language="python",
        )  # fmt: skip

    async def _async_launch_kernel(self, kernel_cmd: list[str], **settings: Any) -> None:
        stdin, stdout = self.box.connect()
        env = dict(os.environ) if self.box.view else self.box.environment()
        settings |= {"stdin": stdin, "stdout": stdout, "stderr": subprocess.DEVNULL, "env": env}
        try:
            if not self._born(kernel_cmd, (stdin, stdout)):
                await super()._async_launch_kernel(kernel_cmd, **settings)
        finally:
            os.close(stdin)
            os.close(stdout)
        self.box.watch(self.provisioner.process)  # type: ignore[union-attr]

    def _born(self, kernel_cmd: list[str], ends: tuple[int, int]) -> bool:
        # Whether the nursery has forked this kernel.
        if not self.box.nursery:
            return False
        sockets = Path(self.connection_file).parent
        arguments = kernel_cmd[kernel_cmd.index(str(HERE / "kernel.py")) + 1 :]
        plan = {**self.box.plan(sockets), "arguments": arguments}
        try:
            born = Born(self.box.nursery, plan, ends)
        except OSError:
            return False
        local: Any = self.provisioner
        local.process, local.pid, local.pgid = born, born.pid, born.pid
        self._reconcile_connection_info(local.connection_info)
        return True
