"""Messages come whole and in order, nobody waits for anybody, and an end that is gone is noticed."""

import select
import socket

import pytest

from workers.generation.pipe import Message, Pipe


@pytest.fixture
def ends():
    pair = Pipe.pair()
    yield pair
    for end in pair:
        end.close()


def test_what_is_sent_comes_whole_and_in_order(ends):
    one, other = ends
    assert one.receive() == []
    one.send(b"first")
    one.send(b"second", b"with", b"content")
    one.send(b"")
    assert other.receive() == [Message(b"first", b""), Message(b"second", b"withcontent"), Message(b"", b"")]
    other.send(b"back")
    assert one.receive() == [Message(b"back", b"")]


def test_more_than_the_socket_takes_goes_when_there_is_room_and_nobody_waits(ends, eventually):
    one, other = ends
    large = bytes(range(256)) * 40_000
    for end in ends:  # both at once: neither reads yet
        end.send(b"large", large)
        assert end.events & select.POLLOUT
    come = {one: [], other: []}

    def both_have_it():
        for end in ends:
            end.flush()
            come[end] += end.receive()
        return all(come.values())

    eventually(both_have_it)
    assert come == {one: [Message(b"large", large)], other: [Message(b"large", large)]}
    assert one.events == other.events == select.POLLIN


def test_a_message_in_pieces_waits_until_it_is_whole():
    near, far = socket.socketpair()
    end = Pipe(near)
    whole = Pipe.pair()
    whole[0].send(b"text", b"content")
    sent = whole[1]._socket.recv(100)
    for byte in sent[:-1]:
        far.send(bytes([byte]))
        assert end.receive() == []
    far.send(sent[-1:])
    assert end.receive() == [Message(b"text", b"content")]
    for one in (end, far, *whole):
        one.close()


def test_what_the_other_end_sent_before_it_left_still_comes(ends):
    one, other = ends
    one.send(b"last words")
    one.close()
    assert other.receive() == [Message(b"last words", b"")]
    with pytest.raises(EOFError):
        other.receive()
    other.send(b"to nobody")
    assert other.events == select.POLLIN
    with pytest.raises(EOFError):
        other.receive()
