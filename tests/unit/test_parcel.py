# SPDX-License-Identifier: Apache-2.0
"""What one process gives another arrives whole, whatever the kernel takes at once, or is refused; no
descriptor is lost to either side."""

import json
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisk_core.dataplane.descriptors import receive, send
from fisk_core.dataplane.parcel import FORMAT, Delivery, Parcel
from fisk_core.errors import ProtocolError, Unsupported


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        before = sorted(os.listdir("/proc/self/fd"))
        yield ours, theirs
        assert sorted(os.listdir("/proc/self/fd")) == before, "a descriptor is left open, or closed"


@pytest.fixture
def slow(monkeypatch):
    """A kernel that does less than it is asked for, as it may."""
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:7], offset))
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 5), offset))


def deliver(pair, parcel, document):
    parcel.send(pair[0], document)
    return Delivery(pair[1])


@given(
    st.lists(st.binary(max_size=40), max_size=5),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_bytes_and_parts_of_files_arrive(parts, spans):
    content = bytes(range(100))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    source = os.memfd_create("source")
    os.write(source, content)
    with ours, theirs, Parcel() as parcel:
        places = [parcel.add_bytes(memoryview(part)) for part in parts]
        cuts = [parcel.add_span(source, *span) for span in spans]
        wanted = [*parts, *(content[offset : offset + length] for offset, length in spans)]
        assert [place[0] for place in places + cuts] == [
            sum(map(len, wanted[:n])) for n in range(len(wanted))
        ]
        with deliver((ours, theirs), parcel, {"places": places + cuts, "text": "é"}) as delivery:
            assert delivery.document["text"] == "é"
            assert [delivery.bytes(place) for place in delivery.document["places"]] == wanted
    os.close(source)


def test_a_kernel_that_takes_and_gives_little_at_once(pair, slow, tmp_path):
    data = os.urandom(1000)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file, Parcel() as parcel:
        places = [parcel.add_bytes(data), parcel.add_span(file.fileno(), 100, 333)]
        with deliver(pair, parcel, {"places": places}) as delivery:
            found = [delivery.bytes(place) for place in delivery.document["places"]]
    assert found == [data, data[100:433]]


@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 400, 450])
def test_descriptors_arrive_in_order_and_those_nobody_takes_are_closed(pair, tmp_path, count):
    fds = [os.open(tmp_path / str(number), os.O_CREAT | os.O_RDWR) for number in range(count)]
    with Parcel() as parcel:
        assert [parcel.add_fd(fd) for fd in fds] == list(range(count))
        with deliver(pair, parcel, {"some": "thing"}) as delivery:
            assert delivery.document == {"some": "thing"}
            taken = [delivery.take(number) for number in range(0, count, 7)]
            for number, fd in zip(range(0, count, 7), taken, strict=True):
                assert os.path.sameopenfile(fd, fds[number])
                assert not os.get_inheritable(fd)
    for fd in [*fds, *taken]:
        os.close(fd)


def test_a_socket_is_taken_as_one(pair):
    one, other = socket.socketpair()
    with one, other, Parcel() as parcel:
        parcel.add_fd(one.fileno())
        with deliver(pair, parcel, {}) as delivery, delivery.take_socket(0) as taken:
            taken.sendall(b"hello")
            assert other.recv(5) == b"hello"
            with pytest.raises(KeyError):
                delivery.take(0)


def test_a_file_shorter_than_what_is_to_be_sent(pair, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100)
    with (tmp_path / "file").open("rb") as file, Parcel() as parcel:
        assert parcel.add_span(file.fileno(), 90, 10) == [0, 10]
        with pytest.raises(ProtocolError, match=r"^a file is shorter than what was to be sent of it$"):
            parcel.add_span(file.fileno(), 90, 11)


def head(**fields):
    return json.dumps({"format": FORMAT, "document": [0, 2], "descriptors": 0, **fields}).encode()


@pytest.mark.parametrize(
    ("messages", "error", "why"),
    [
        ([], EOFError, "^$"),
        ([b"[]"], EOFError, "^$"),
        ([head(format=FORMAT + 1)], Unsupported, "format 2"),
        ([b"{}"], Unsupported, "format None"),
        ([head(descriptors=1)], EOFError, "^$"),
        ([head(descriptors=1), b"something else"], EOFError, "^$"),
        ([head(descriptors=2), b"descriptors"], EOFError, "^$"),
        ([head(document=[0, 3])], ProtocolError, "^a hand-over that is cut short$"),
        ([b"{no json"], ProtocolError, "makes no sense: JSONDecodeError"),
        ([head(document=[0])], ProtocolError, "makes no sense: ValueError"),
        ([head(document=None)], ProtocolError, "makes no sense: TypeError"),
    ],
)
def test_what_is_no_whole_parcel_is_refused(pair, messages, error, why):
    ours, theirs = pair
    with os.fdopen(os.memfd_create("parcel"), "wb", buffering=0) as file:
        file.write(b"{}")
        for message in messages:
            send(ours, message, [file.fileno()])
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(error, match=why):
        Delivery(theirs)


def test_descriptors_that_were_lost_on_their_way(pair):
    ours, theirs = pair
    with os.fdopen(os.memfd_create("parcel"), "wb", buffering=0) as file:
        send(ours, head(descriptors=1), [file.fileno()])
        send(ours, b"descriptors")
    with pytest.raises(ProtocolError, match=r"^descriptors were lost on their way$"):
        Delivery(theirs)


def test_what_is_on_the_wire(pair):
    """A successor of another version relies on it."""
    with Parcel() as parcel:
        assert not os.get_inheritable(parcel._file)
        parcel.add_bytes(b"abc")
        parcel.add_fd(0)
        parcel.send(pair[0], {"a": 1})
    data, fds = receive(pair[1], 4096)
    assert json.loads(data) == {"format": 1, "document": [3, 8], "descriptors": 1}
    with fds:
        assert os.pread(fds.first, 100, 0) == b'abc{"a": 1}'
    data, fds = receive(pair[1], 4096)
    with fds:
        assert (data, len(fds)) == (b"descriptors", 1)
