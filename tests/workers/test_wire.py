"""Messages come whole and in order, nobody waits for anybody, and an end that is gone is noticed."""

import select
import socket
import threading

import pytest

from workers.wire import Message, Wire


@pytest.fixture
def ends():
    pair = Wire.pair()
    yield pair
    for end in pair:
        end.close()


def test_what_is_sent_comes_whole_and_in_order(ends):
    one, other = ends
    assert one.receive() == []
    assert one.send(b"first")
    assert one.send(b"second", b"with", b"content")
    assert one.send(b"")
    assert other.receive() == [Message(b"first", b""), Message(b"second", b"withcontent"), Message(b"", b"")]
    assert other.send(b"back")
    assert one.receive() == [Message(b"back", b"")]


def test_more_than_the_socket_takes_goes_when_there_is_room_and_nobody_waits(ends, eventually):
    one, other = ends
    large = bytes(range(256)) * 40_000
    for end in ends:  # both at once: neither reads yet
        assert not end.send(b"large", large)
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


def test_messages_of_many_threads_do_not_mix(ends):
    one, other = ends
    threads = [threading.Thread(target=lambda n=n: [one.send(b"%d" % n, b"%d" % n * 5000) for _ in range(50)]) for n in range(4)]
    for thread in threads:
        thread.start()
    come = []
    while len(come) < 200:
        one.flush()
        come += other.receive()
    for thread in threads:
        thread.join()
    assert all(content == text * 5000 for text, content in come)


def test_a_message_in_pieces_waits_until_it_is_whole():
    near, far = socket.socketpair()
    end = Wire(near)
    whole = Wire.pair()
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
    assert other.send(b"to nobody")
    with pytest.raises(EOFError):
        other.receive()
