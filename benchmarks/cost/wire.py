"""Bytes that this process has sent over TCP, as the kernel counts them."""

from __future__ import annotations

import os
import socket
import struct
import sys

__all__ = ["sent_bytes"]

# where struct tcp_info of linux/tcp.h has tcpi_bytes_sent and tcpi_bytes_retrans, 64 bits each, since Linux 4.19
OFFSET = 200


def sent_bytes() -> int | None:
    """Payload over all open connections of this process, each byte once; None where nobody counts.

    Connections that have been closed no longer count: take differences between two moments with the same ones open.
    """
    if not sys.platform.startswith("linux"):
        return None
    total = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                continue
            connection = socket.socket(fileno=os.dup(int(descriptor)))
        except OSError:  # closed since it was listed, the listing's own among them
            continue
        with connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
                continue
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            if len(info) < OFFSET + 16:
                return None
            once, again = struct.unpack_from("=QQ", info, OFFSET)
            total += once - again
    return total
