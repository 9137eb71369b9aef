"""The process's descriptors and sockets: how many connections it may hold, who they lead to, and closing some."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import resource
import socket
import stat
from collections.abc import Collection
from pathlib import Path

Endpoint = tuple[str, int]  # address and port

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


def descriptors() -> int:
    """How many the process has open, about; 0 where there is no /proc."""
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.is_dir() else 0


def peers_of(port: int) -> set[Endpoint]:
    """The other ends of the process's TCP connections on a local port."""
    return {peer for _, peer in _connections(port)}


def close_some(port: int, peers: Collection[Endpoint]) -> None:
    """Shuts down the connections on a local port that lead to these other ends."""
    for descriptor, peer in _connections(port):
        if peer in peers:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
                one.shutdown(socket.SHUT_RDWR)


def plain_address(host: str) -> str:
    """An address, without the form that an IPv4 address has in IPv6. Raises ValueError."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def _connections(port: int) -> list[tuple[int, Endpoint]]:
    found = []
    for descriptor in _sockets():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
            if _local_port(one) == port:
                host, other = one.getpeername()[:2]  # raises for one that listens
                found.append((descriptor, (plain_address(host), int(other))))
    return found


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
