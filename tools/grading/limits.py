"""Limits that a process sets for itself and whatever it starts."""

import contextlib


def limit(megabytes: int, processes: int = 0) -> None:
    """Allow so much memory, files of 256 MB, and so many processes (0: any number).

    Windows has no such limits, macOS not all of them: there the limit of time has to do.
    """
    try:
        import resource
    except ImportError:
        return
    limits = {resource.RLIMIT_DATA: megabytes * 2**20, resource.RLIMIT_FSIZE: 2**28}
    if processes:
        limits[resource.RLIMIT_NPROC] = processes
    for kind, most in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))
