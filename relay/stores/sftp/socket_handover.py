"""Hand a connected socket over to `ssh`, as its `ProxyCommand` (ssh_config(5), `ProxyUseFdpass`).

relay connects by itself, to an address that its policy allows, and `ssh` gets the connection. This
program runs for that moment: it takes the socket from relay and passes it on. It imports nothing of
relay, so it starts in some milliseconds.

Never here: which address (`ssh_child.py`)."""

from __future__ import annotations

import _socket
import sys


def hand_over(name: str) -> None:
    """Take a descriptor from relay's abstract socket `name`, and pass it on to standard output."""
    near = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    near.connect(b"\0" + name.encode())
    data, passed, _, _ = near.recvmsg(1, _socket.CMSG_SPACE(4))
    far = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, 1)
    far.sendmsg([data], passed)


if __name__ == "__main__":
    hand_over(sys.argv[1])
