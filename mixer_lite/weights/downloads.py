"""Files of weights from the network: whole and as published, or one sentence that says what to do.

huggingface_hub and pooch do the work: progress, retries, a cache in which a file has its name
only when it is whole. Here is what they leave open: what must be inside, and plain words.
"""

from __future__ import annotations

import errno
import hashlib
import re
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mixer_lite._support.files import WrongFileError, bounded, cache_folder, hub_download
from mixer_lite._support.words import foreign, reason

TIMEOUT = 20  # seconds that a server may keep silent
WAITS = (1, 2)  # seconds before the second and the third try
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in this order, as timm looks for them
CHUNK = 1 << 20  # bytes that are written at once
MOST_MIB = 4096  # of a file whose size is not published
MIB_TOLERANCE = 0.011  # sizes are published to 0.01 MiB


def caches() -> list[Path]:
    """The cache folders: the hub's and our own."""
    from huggingface_hub import constants

    return [Path(constants.HF_HUB_CACHE), cache_folder()]


def on_hub(repo: str) -> str:
    """Address of the weights in a repository of the model hub, for a browser."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repo, HUB_FILES[0])


def kept_from_hub(repo: str) -> Path | None:
    """The weights of a hub repository where the hub's cache has them; asks no network."""
    from huggingface_hub import constants, try_to_load_from_cache

    for name in HUB_FILES:
        kept = try_to_load_from_cache(repo, name, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(kept, str):
            return Path(kept)
    return None


def from_hub(repo: str, *, mib: float = MOST_MIB, name: str, call: str) -> Path:
    """The weights of a hub repository: from the hub's cache, else downloaded into it.

    ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` are honoured. A new
    file is held to the size and the sha256 that the hub states.

    Args:
        repo: for example ``"timm/mixer_b16_224.goog_in21k"``.
        mib: about what the weights take, in MiB; a tenth and one MiB more are accepted.
        name: what an error message calls the weights.
        call: what opens a file brought by hand, for the error message.

    Raises:
        ConnectionError: the hub did not give the file; says why and what to do.
        OSError: it cannot be stored.
    """
    kept = kept_from_hub(repo)
    if kept and _as_named(kept):
        return kept
    from huggingface_hub import constants

    try:
        # Asked first and with little patience: the client itself would go on for minutes.
        file, etag, size = _patiently(lambda: _described(repo))
        if size > (1.1 * mib + 1) * 2**20:
            raise WrongFileError(
                f"the hub names a file of {size / 2**20:,.0f} MiB where these weights take "
                f"{mib:,.0f}"
            )
        path = hub_download(size, repo, file, cache_dir=constants.HF_HUB_CACHE)
        if len(etag) == 64:  # a large file's tag is its sha256, which the client does not check
            try:
                verify(path, sha256=etag)
            except WrongFileError:
                path.resolve().unlink()  # the file itself; in the snapshot is a link to it
                path.unlink(missing_ok=True)
                raise
        return path
    except Exception as error:  # two clients and their HTTP layers raise many kinds
        raise explained(
            error, name=name, url=on_hub(repo), call=call,
            folder=constants.HF_HUB_CACHE, variable="HF_HUB_CACHE",
        ) from error  # fmt: skip


def _as_named(kept: Path) -> bool:
    # Whether a file of the hub's cache has the sha256 that its name says; a changed one is deleted.
    digest = kept.resolve().name
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        return True  # a small file's name is a git hash
    try:
        verify(kept, sha256=digest)
    except WrongFileError:
        if kept.resolve().is_relative_to(caches()[0].resolve()):
            kept.resolve().unlink()
        kept.unlink(missing_ok=True)
        return False
    return True


def _described(repo: str) -> tuple[str, str, int]:
    # Which file of weights the repository has, its tag and its bytes.
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    missing: Exception | None = None
    for name in HUB_FILES:
        try:
            facts = get_hf_file_metadata(hf_hub_url(repo, name), timeout=TIMEOUT)
        except EntryNotFoundError as error:
            missing = missing or error
            continue
        if not facts.commit_hash or not facts.etag or facts.size is None:
            raise WrongFileError("a web page came, perhaps a login page, and not the hub's answer")
        return name, facts.etag, facts.size
    assert missing is not None
    raise missing


def kept_from_url(url: str, *, mib: float | None = None) -> Path | None:
    """A file of :func:`from_url` where our cache has it whole; asks no network."""
    path = _place(url)
    return path if path.is_file() and _of_size(path, mib) else None


def _place(url: str) -> Path:
    # Files of one name lie in several of Google's folders, and are of one size.
    return cache_folder().joinpath("weights", *url.split("/")[-2:])


def from_url(url: str, *, mib: float | None, sha256: str, name: str, call: str) -> Path:
    """A file by its address: from our cache, else downloaded into it and verified.

    The sha256 of what came is kept beside it, in the format of ``sha256sum``.

    Args:
        url: whose last two parts are the folder and the file in the cache.
        mib: size in MiB to two digits, where known.
        sha256: its beginning, where known.
        name: what an error message calls the weights.
        call: what opens a file brought by hand, for the error message.

    Raises:
        ConnectionError: the server did not give the file; says why and what to do.
        OSError: it cannot be stored.
    """
    kept = kept_from_url(url, mib=mib)
    if kept and _as_noted(kept, sha256):
        return kept
    import pooch

    path, digest = _place(url), ""
    folder, file = path.parent, path.name

    def fetch(url: str, output_file: str, _: Any) -> None:
        # Verified here, before pooch gives the file its name.
        nonlocal digest
        try:
            # A bar of ours is closed when all goes wrong; pooch learns the total and sets it.
            most = (MOST_MIB if mib is None else mib) * 2**20
            with bounded(most)(total=1, unit="B", unit_scale=True, desc=file, delay=0.1) as bar:
                http = pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK, timeout=TIMEOUT)
                http(url, output_file, None)
            digest = verify(Path(output_file), mib=mib, sha256=sha256, npz=file.endswith(".npz"))
        except Exception as error:
            if is_transient(error):
                raise
            raise _FinalError from error  # pooch does not ask again

    pooch.get_logger().setLevel("WARNING")
    cache = pooch.create(
        folder, "", registry={file: None}, urls={file: url}, retry_if_failed=len(WAITS)
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        if path.is_symlink() or path.is_file():  # of another size, or changed
            path.unlink()
        cache.fetch(file, downloader=fetch)
        if digest:
            note = path.with_name(f"{file}.sha256")
            note.write_text(f"{digest}  {file}\n", encoding="utf-8")
        return path
    except Exception as error:  # two clients and their HTTP layers raise many kinds
        raise explained(
            error, name=name, url=url, call=call, folder=folder, variable="MIXER_LITE_CACHE"
        ) from error


class _FinalError(Exception):
    """Wraps an error that a second try would repeat."""


def _as_noted(path: Path, sha256: str) -> bool:
    # Whether a kept file is still the one whose sha256 was noted beside it, or is published.
    note = path.with_name(f"{path.name}.sha256")
    try:
        noted = note.read_text(encoding="utf-8").split()[0] if note.is_file() else ""
        verify(path, sha256=sha256)
        verify(path, sha256=noted)
    except (WrongFileError, OSError, ValueError, IndexError):
        return False
    return True


def _sweep(folder: Path) -> None:
    # Left by a killed download; a running one has written to its file lately. In a folder of
    # ours alone: a link may lead to somebody else's.
    cache = cache_folder()
    if any(part.is_symlink() for part in [folder, *folder.parents] if part.is_relative_to(cache)):
        return
    for path in folder.glob("tmp*"):
        told = path.lstat()
        ours = stat.S_ISREG(told.st_mode) and re.fullmatch(r"tmp[a-z0-9_]{8}", path.name)
        if ours and time.time() - told.st_mtime > 30 * TIMEOUT:
            path.unlink(missing_ok=True)


def verify(path: Path, *, mib: float | None = None, sha256: str = "", npz: bool = False) -> str:
    """Check a file against what is published about it; returns its sha256.

    Raises:
        WrongFileError: a web page, another size, another checksum, or a damaged archive.
    """
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml")):
            raise WrongFileError("a web page came, perhaps a login page, and not the file")
        if not _of_size(path, mib):
            size = path.stat().st_size / 2**20
            raise WrongFileError(f"the file has {size:.2f} MiB and not the published {mib:.2f}")
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(sha256):
        raise WrongFileError(
            f"the file's sha256 begins with {digest[:8]} and not with the published {sha256[:8]}"
        )
    if npz:
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # reads all of it
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise WrongFileError(f"the file is no whole .npz ({error})") from error
        if damaged:
            raise WrongFileError(f"the file is damaged in its part {damaged}")
    return digest


def _of_size(path: Path, mib: float | None) -> bool:
    return mib is None or abs(path.stat().st_size / 2**20 - mib) <= MIB_TOLERANCE


def _patiently(ask: Callable[[], tuple[str, str, int]]) -> tuple[str, str, int]:
    for wait in WAITS:
        try:
            return ask()
        except Exception as error:
            if not is_transient(error):
                raise
            time.sleep(wait)
    return ask()


# --- what went wrong, in words --------------------------------------------------------------

# By HTTP status: what the server means, and what to do about it.
_STATUS = {
    401: ("{host} asks for a login (HTTP 401)", "check whether a mirror or a proxy needs a login"),
    403: ("{host} refuses the file (HTTP 403)",
          "try without the firewall or the proxy that may forbid it"),
    404: ("{host} has no such file (HTTP 404)", "look whether it has moved"),
    407: ("the proxy wants a login (HTTP 407)", "put name and password into HTTPS_PROXY"),
    429: ("{host} has had too many requests from here (HTTP 429)", "wait a few minutes"),
}  # fmt: skip
_FAULT = ("{host} has a problem (HTTP {status})", "try again later")

# By the class of the error or of one that it comes from, the first that is found.
_KINDS = (
    (("OfflineModeIsEnabled",), "HF_HUB_OFFLINE forbids the network", "unset it"),
    (("ProxyError",), "the proxy refuses to connect to {host}",
     "check HTTPS_PROXY, and set NO_PROXY if none is needed"),
    (("SSLError", "SSLCertVerificationError"), "the certificate of {host} is not trusted",
     "put the certificate of the proxy that may read along into SSL_CERT_FILE"),
    (("ConnectError", "NewConnectionError"), "there is no connection to {host}",
     "connect to the network and try again"),
    (("TimeoutException", "Timeout", "TimeoutError"), "{host} was silent for too long",
     "try again when the network is better"),
    (("ChunkedEncodingError", "RemoteProtocolError", "ProtocolError", "IncompleteRead"),
     "the connection to {host} broke off", "try again"),
    (("NetworkError", "ConnectionError"), "the connection to {host} failed", "try again"),
)  # fmt: skip
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def explained(
    error: Exception, *, name: str, url: str, call: str, folder: str | Path, variable: str
) -> OSError:
    """The error to raise instead: one sentence with the reason, the remedy and the way by hand.

    Args:
        error: what a client raised.
        name: what was wanted.
        url: where a browser finds it.
        call: what opens it then.
        folder: the cache.
        variable: with which another is chosen.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]  # without a password
    url = foreign(parts._replace(netloc=host).geturl(), 300)
    host = foreign(host)
    number = next((e.errno for e in _chain(error) if isinstance(e, OSError) and e.errno), 0)
    status, kinds = _status(error), _kinds(error)
    kind: type[OSError] = ConnectionError
    wrong = next((e for e in _chain(error) if isinstance(e, WrongFileError)), None)
    if wrong:
        why, remedy = str(wrong), "try again or from another network"
    elif number in _FULL:
        kind, why = OSError, f"the disk is full at {folder}"
        remedy = f"make room or set {variable} to a folder on another disk"
    elif number in _CLOSED:
        kind, why = OSError, f"nothing can be stored in {folder}"
        remedy = f"set {variable} to a folder of yours"
    elif status:
        why, remedy = _STATUS.get(status, _FAULT)
    elif found := next((row for row in _KINDS if kinds & set(row[0])), None):
        why, remedy = found[1:]
    elif "onsistency check" in str(error):  # the hub client has no class for it
        why, remedy = "another number of bytes came than {host} had promised", "try again"
    else:
        why = reason(error)
        remedy = "try again later"
    why = why.replace("{host}", host).replace("{status}", str(status))
    return kind(
        f"{name} is not in the cache and could not be downloaded: {why}; {remedy}, or fetch {url} "
        f"by hand and open it with {call}."
    )


def is_transient(error: Exception) -> bool:
    """Whether the same question may soon have another answer."""
    status = _status(error)
    if status:
        return status in (408, 429) or status >= 500
    never = {"OfflineModeIsEnabled", "ProxyError", "SSLError", "SSLCertVerificationError"}
    often = {name for names, *_ in _KINDS for name in names} - never
    return not _kinds(error) & never and bool(_kinds(error) & often)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: Exception) -> int:
    if "ProxyError" in _kinds(error) and any(" 407" in f" {e}" for e in _chain(error)):
        return 407  # only the text says so
    responses = (getattr(e, "response", None) for e in _chain(error))
    return next((r.status_code for r in responses if r is not None), 0)


def _kinds(error: Exception) -> set[str]:
    return {kind.__name__ for e in _chain(error) for kind in type(e).__mro__}
