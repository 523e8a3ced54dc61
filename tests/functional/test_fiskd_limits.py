# SPDX-License-Identifier: Apache-2.0
"""Every limit of the API: what passes it gets a 4xx, and the daemon goes on."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.fiskds import Fiskd, UnixConnection, running

LIMITS = {
    "max_body": 5000,
    "max_head": 4000,
    "max_page": 10,
    "max_requests": 4,
    "max_streams": 2,
    "max_connections": 20,
    "read_seconds": 1,
    "max_jobs": 2,
}


@pytest.fixture(scope="module")
def fiskd() -> Iterator[Fiskd]:
    with TemporaryDirectory(prefix="fisk-") as home, running(Path(home), api=LIMITS) as started:
        yield started
        assert started.request("GET", "/healthz")[0] == 200
        assert "ERROR" not in started.log


def speak(fiskd: Fiskd, data: bytes) -> bytes:
    """Send bytes, then give everything that comes until the connection ends."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(fiskd.socket))
        with suppress(BrokenPipeError):  # it may have answered and gone already
            sock.sendall(data)
        found = b""
        while part := sock.recv(65536):
            found += part
        return found


def problem(answer: bytes, status: int, kind: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert json.loads(body)["type"] == f"urn:fisk:error:{kind}"


def test_a_body_that_is_too_long(fiskd):
    head = b"POST /v1/fisks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    problem(speak(fiskd, head + b"Content-Length: 5001\r\n\r\n"), 413, "limit-exceeded")
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    problem(speak(fiskd, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2), 413, "limit-exceeded")


def test_a_length_that_is_none(fiskd):
    head = b"POST /v1/fisks HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n\r\n"
    problem(speak(fiskd, head % b"-1"), 400, "invalid-value")
    assert speak(fiskd, head % (b"9" * 30)).split()[1] in (b"400", b"413")


def test_headers_that_are_too_long(fiskd):
    head = b"GET /v1 HTTP/1.1\r\nHost: x\r\nX-Long: "
    problem(speak(fiskd, head + b"x" * 5000), 413, "limit-exceeded")
    problem(speak(fiskd, b"GET /" + b"x" * 5000), 413, "limit-exceeded")


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /v1 HTTP/1.1\r\nHost:", b"POST /v1/fisks HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"],
)
def test_a_request_that_does_not_arrive(fiskd, begun):
    answer = speak(fiskd, begun)
    assert answer == b"" or b" 408 " in answer.splitlines()[0]


def test_rubbish_is_refused(fiskd):
    problem(speak(fiskd, b"\x16\x03\x01 what is this\r\n\r\n"), 400, "invalid-value")


def test_too_many_requests_at_once(fiskd):
    size = 1 << 20
    fiskd.request("POST", "/v1/fisks", json.dumps({"name": "busy", "size": size}).encode(), JSON)
    lock = {"offset": 0, "length": 1, "ttl": 60.0}
    status, _, held = fiskd.request("POST", "/v1/fisks/busy/locks", json.dumps(lock).encode(), JSON)
    assert status == 201
    waiting = json.dumps({**lock, "wait": 30.0}).encode()
    with ExitStack() as stack:
        waiters = [stack.enter_context(closing(UnixConnection(fiskd.socket))) for _ in range(4)]
        for waiter in waiters:
            waiter.request("POST", "/v1/fisks/busy/locks", waiting, JSON)
        while (refused := fiskd.request("GET", "/v1"))[0] == 200:
            pass
        assert refused[0] == 429
        assert refused[1]["retry-after"] == "1"
    # They hung up, so they do not wait any more, long before their time is over.
    release(fiskd, json.loads(held)["id"])


def release(fiskd: Fiskd, lock_id: str) -> None:
    while fiskd.request("DELETE", f"/v1/locks/{lock_id}")[0] == 429:
        pass


JSON = {"Content-Type": "application/json"}


def test_too_many_streams(fiskd):
    with ExitStack() as stack:
        for _ in range(2):
            stream = stack.enter_context(closing(UnixConnection(fiskd.socket)))
            stream.request("GET", "/v1/events")
            assert stream.getresponse().status == 200
        status, _, text = fiskd.request("GET", "/v1/events")
        assert (status, json.loads(text)["type"]) == (429, "urn:fisk:error:overloaded")
    while (again := closing(UnixConnection(fiskd.socket))) is not None:
        with again as stream:
            stream.request("GET", "/v1/events")
            if stream.getresponse().status == 200:
                break


def test_too_many_connections(fiskd):
    with ExitStack() as stack:
        for _ in range(LIMITS["max_connections"]):
            # One that has asked something before may be idle for long.
            kept = stack.enter_context(closing(UnixConnection(fiskd.socket)))
            kept.request("GET", "/healthz")
            assert kept.getresponse().read()
        problem(speak(fiskd, b""), 429, "overloaded")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/fisks/x/clones", {"name": "n", "count": 1001}),
        ("/v1/deletions", {"refs": ["x"] * 201}),
        ("/v1/fisks", {"name": "n", "size": 1 << 62}),
        ("/v1/fisks", {"name": "n", "size": 512, "attributes": {str(n): "" for n in range(257)}}),
        ("/v1/fisks", {"name": "n", "size": 512, "attributes": {"k" * 256: ""}}),
        ("/v1/fisks/x/locks", {"offset": 0, "length": 1, "wait": 61.0}),
    ],
)
def test_more_than_an_operation_takes(fiskd, path, body):
    status, _, text = fiskd.request("POST", path, json.dumps(body).encode(), JSON)
    assert (status, json.loads(text)["type"]) == (400, "urn:fisk:error:invalid-value")


def test_deep_json_is_refused(fiskd):
    body = b'{"kind": "scrub", "arguments": {"refs": ' + b"[" * 2000 + b"]" * 2000 + b"}}"
    assert fiskd.request("POST", "/v1/jobs", body, JSON)[0] == 400
