"""What an answer is written in: its head with its body, and never later than the loop's next turn."""

import asyncio
import socket
import sys

import pytest

from service.writing import HeadWithBody

HEAD, BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", b"body"


class Recording(asyncio.Transport):
    """Notes what is written, and when it is closed."""

    def __init__(self):
        super().__init__({"peername": "there"})
        self.done = []

    def write(self, data):
        self.done.append(bytes(data))

    def close(self):
        self.done.append("closed")

    def is_closing(self):
        return "closed" in self.done


@pytest.mark.parametrize(
    ("written", "done"),
    [
        ([HEAD, BODY], [HEAD + BODY]),
        ([HEAD, b"b", b"ody"], [HEAD + b"b", b"ody"]),
        ([HEAD, b""], [HEAD]),
        ([HEAD], [HEAD]),
        ([BODY], [BODY]),
        ([HEAD, HEAD, BODY], [HEAD + HEAD, BODY]),
        ([HEAD, BODY, HEAD, BODY], [HEAD + BODY, HEAD + BODY]),
        ([HEAD, "close"], [HEAD, "closed"]),
        ([HEAD, BODY, "close"], [HEAD + BODY, "closed"]),
    ],
)
def test_a_head_travels_with_what_comes_next_in_the_same_turn(written, done):
    async def scenario():
        beneath = Recording()
        transport = HeadWithBody(beneath, asyncio.get_running_loop())
        for data in written:
            if data == "close":
                transport.close()
            else:
                transport.write(data)
        await asyncio.sleep(0)
        return beneath.done

    assert asyncio.run(scenario()) == done


def test_the_head_of_a_stream_does_not_wait_for_its_first_chunk():
    async def scenario():
        beneath = Recording()
        transport = HeadWithBody(beneath, asyncio.get_running_loop())
        transport.write(HEAD)
        assert beneath.done == []
        await asyncio.sleep(0)
        assert beneath.done == [HEAD]
        transport.write(b"chunk")
        assert beneath.done == [HEAD, b"chunk"]
        assert (transport.is_closing(), transport.get_extra_info("peername")) == (False, "there")

    asyncio.run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="counts segments as Linux does")
def test_a_served_answer_comes_in_one_piece(address):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        for _ in range(20):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(1 << 16)
        assert data_segments_in(connection) == 20


def data_segments_in(connection):
    """Of the kernel's struct tcp_info."""
    told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int.from_bytes(told[152:156], sys.byteorder)
