"""Messages between two processes over a socket, each a line of JSON and the bytes that belong to it. Neither end waits for the other."""

import select
import socket
import struct
from typing import NamedTuple

LENGTHS = struct.Struct("<II")  # of text and content; a message begins with them
READ_BYTES = 1 << 16  # by one call


class Message(NamedTuple):
    """Sent and received as a whole."""

    text: bytes  # JSON
    content: bytes  # pixels


class Pipe:
    """One end of the connection, for one thread. Messages arrive whole and in order."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._unsent, self._received = bytearray(), bytearray()

    @classmethod
    def pair(cls) -> tuple["Pipe", "Pipe"]:
        """Both ends of a new connection."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def open(self) -> bool:
        """Whether this end is still open."""
        return self._socket.fileno() >= 0

    @property
    def events(self) -> int:
        """What to poll for: data to read and, while something is unsent, room to write."""
        return select.POLLIN | (select.POLLOUT if self._unsent else 0)

    def send(self, text: bytes, *contents: bytes) -> None:
        """Sends a message; bytes the socket has no room for go with the next call of `send` or `flush`."""
        self._unsent += LENGTHS.pack(len(text), sum(map(len, contents)))
        self._unsent += text
        for content in contents:
            self._unsent += content
        self.flush()

    def flush(self) -> None:
        """Sends as many unsent bytes as the socket has room for."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # the other end is closed: `receive` raises
            self._unsent.clear()

    def receive(self) -> list[Message]:
        """The messages that have arrived. Raises EOFError once the other end is closed and its last message was received."""
        closed = self._read()
        messages, at = [], 0
        while len(self._received) - at >= LENGTHS.size:
            text, content = LENGTHS.unpack_from(self._received, at)
            begin = at + LENGTHS.size
            end = begin + text + content
            if end > len(self._received):
                break
            messages.append(Message(bytes(self._received[begin : begin + text]), bytes(self._received[begin + text : end])))
            at = end
        del self._received[:at]
        if closed and not messages:
            raise EOFError
        return messages

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> bool:
        """Reads all there is; True once the other end is closed."""
        while True:
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                return False
            except OSError:
                return True
            self._received += data
            if len(data) < READ_BYTES:
                return not data
