"""Blocks the network for every Python process that has this folder on its PYTHONPATH.

Connections within the machine stay possible: a notebook's kernel needs them.
"""

import socket
import sys

_HERE = {"", "localhost", "::1", "0.0.0.0", "::", socket.gethostname()}


def _is_here(host):
    host = host.decode() if isinstance(host, bytes) else host
    return host is None or host in _HERE or host.startswith("127.")


def _refuse(event, args):
    if event in ("socket.connect", "socket.sendto"):
        host = args[1][0] if isinstance(args[1], tuple) else None  # else: a local socket's path
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if not _is_here(host):
        raise OSError(f"The network is blocked here; something asked for {host!r}.")


sys.addaudithook(_refuse)
