"""Messages between two processes over a socket: a line of JSON and bytes that belong to it. Neither end ever waits for the other."""

import select
import socket
import struct
from typing import NamedTuple

LENGTHS = struct.Struct("<II")  # of the text and of the bytes, before both
AT_ONCE = 1 << 16  # bytes read by one call


class Message(NamedTuple):
    """What travels as one."""

    text: bytes
    content: bytes


class Wire:
    """One end, for one thread. Messages come whole, in the order in which they were sent."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._unsent, self._come = bytearray(), bytearray()

    @classmethod
    def pair(cls) -> tuple["Wire", "Wire"]:
        """Both ends of a new one."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def open(self) -> bool:
        """Whether this end was not closed."""
        return self._socket.fileno() >= 0

    @property
    def events(self) -> int:
        """What to poll for: that something has come, and where something is left to send, that there is room."""
        return select.POLLIN | (select.POLLOUT if self._unsent else 0)

    def send(self, text: bytes, *contents: bytes) -> None:
        """What does not go at once goes with the next call of this or of `flush`."""
        self._unsent += LENGTHS.pack(len(text), sum(map(len, contents)))
        self._unsent += text
        for content in contents:
            self._unsent += content
        self.flush()

    def flush(self) -> None:
        """Sends what is left, as far as there is room."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # nobody will ever receive it: `receive` says so
            self._unsent.clear()

    def receive(self) -> list[Message]:
        """What has come; raises EOFError once the other end is gone and all that it sent was received."""
        gone = self._read()
        messages, at = [], 0
        while len(self._come) - at >= LENGTHS.size:
            text, content = LENGTHS.unpack_from(self._come, at)
            begin = at + LENGTHS.size
            end = begin + text + content
            if end > len(self._come):
                break
            messages.append(Message(bytes(self._come[begin : begin + text]), bytes(self._come[begin + text : end])))
            at = end
        del self._come[:at]
        if gone and not messages:
            raise EOFError
        return messages

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> bool:
        """True once nothing will come any more."""
        while True:
            try:
                data = self._socket.recv(AT_ONCE)
            except BlockingIOError:
                return False
            except OSError:
                return True
            self._come += data
            if len(data) < AT_ONCE:
                return not data
