"""Messages between a sweep and its measuring process: one JSON object a packet.

Packets keep their borders.  Candidate code that writes to the wrong file descriptor therefore
spoils one message; on a stream it could announce a length that never comes.
"""

import json
import select
import socket
from collections.abc import Mapping
from typing import Any

__all__ = ["Channel"]

#: Larger than the largest packet that Linux lets a local socket send.
PACKET_BYTES = 2**22


class Channel:
    """One end of a socket pair."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    @classmethod
    def pair(cls) -> tuple["Channel", socket.socket]:
        """Our end, and the other one to hand to a process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    @classmethod
    def inherited(cls, fd: int) -> "Channel":
        """The end that this process was started with."""
        end = socket.socket(fileno=fd)
        end.set_inheritable(False)
        return cls(end)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message.

        Raises:
            OSError: nobody reads the other end.
        """
        self._end.sendall(json.dumps(message).encode())

    def wait(self, seconds: float) -> bool:
        """True when a message, or the end, can be received without waiting."""
        return bool(self._poll.poll(max(0.0, seconds) * 1e3))

    def receive(self) -> dict[str, Any]:
        """The next message.

        Raises:
            EOFError: the other end was closed.
            ValueError: it is no message.
            OSError: the connection broke.
        """
        packet = self._end.recv(PACKET_BYTES)
        if not packet:
            raise EOFError
        message = json.loads(packet)  # its error is a ValueError
        if not isinstance(message, dict):
            raise ValueError("a message is an object")
        return message

    def close(self) -> None:
        """Close this end."""
        self._end.close()
