"""The process's descriptors and sockets: how many connections it may hold, and closing those of one port."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat
from pathlib import Path

CONNECTIONS_MAX = 1024  # of one port, however many descriptors there are


def connections_allowed() -> int:
    """How many connections one port may hold: a quarter of the process's descriptors, 1,024 at most.

    The rest is for the other port, for files, and for what libraries open.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(1, min(CONNECTIONS_MAX, soft // 4))


def close_connections(port: int) -> None:
    """Shuts down every TCP socket of this process that is bound to a local port, the listening one first.

    For a library that opens its sockets itself and offers no such call. Does nothing where there is no /proc.
    """
    for listening in (True, False):
        for descriptor in _sockets():
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
                ours = _local_port(one) == port
                if ours and bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) is listening:
                    one.shutdown(socket.SHUT_RDWR)


def _sockets() -> list[int]:
    found = []
    folder = Path("/proc/self/fd")
    for entry in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # closed meanwhile
            if stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                found.append(int(entry.name))
    return found


def _local_port(one: socket.socket) -> int | None:
    if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
        return None
    return int(one.getsockname()[1])
