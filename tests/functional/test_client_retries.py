# SPDX-License-Identifier: Apache-2.0
"""What the client does when the daemon fails it; a small server provokes what a good one would not."""

import json
import os
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from fisk_core import errors
from fisk_core.client import RemoteEngine
from fisk_core.client.transport import Patience
from tests.nbd_servers import make_certificates

QUICK = Patience(total=20.0, connect=10.0, shortest=0.001, longest=0.01)
HASTY = Patience(total=0.3, connect=0.2, shortest=0.001, longest=0.01)
FISK = {
    "id": "5f0c11d2-3a4b-4c5d-8e6f-708192a3b4c5", "name": "a", "size": 4096, "state": "live",
    "role": "volume", "pool": "default", "map_id": "5f0c11d2-3a4b-4c5d-8e6f-708192a3b4c6",
    "created_at": "2026-01-02T03:04:05Z",
    "parent_id": None, "block_size": 4096, "page_size": 4 << 20, "attributes": {}, "of_a_newer_daemon": 1,
}  # fmt: skip
Act = Callable[["_Handler"], None]


class _Handler(BaseHTTPRequestHandler):
    """Does what the script says next; at its end it answers with the Fisk."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.body = json.loads(self.rfile.read(length)) if length else None
        with self.server.lock:
            self.server.seen.append((self.command, self.path, self.body, dict(self.headers)))
            self.server.peers.add(self.connection.fileno())
            act = self.server.script.pop(0) if self.server.script else answer(200, FISK)
        act(self)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _handle


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, family: int, address: Any, script: list[Act]) -> None:
        self.address_family = family
        self.script, self.lock = script, threading.Lock()
        self.seen: list[tuple[str, str, Any, dict[str, str]]] = []
        self.peers: set[int] = set()
        self.connections = 0
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


def answer(status: int, body: Any = None, **headers: str) -> Act:
    def act(handler: _Handler) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return act


def problem(kind: type[errors.FiskError], detail: str, **headers: str) -> Act:
    from fisk_core.problem import document

    return answer(kind.http_status, document(kind(detail)), **headers)


def drop(handler: _Handler) -> None:
    """Hang up without a word."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def cut(handler: _Handler) -> None:
    """Promise more than comes."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id"')
    handler.wfile.flush()
    drop(handler)


def sleep(seconds: float) -> Act:
    def act(handler: _Handler) -> None:
        handler.server.awake.wait(seconds)  # type: ignore[attr-defined]
        drop(handler)

    return act


@contextmanager
def running(server: _Server) -> Iterator[_Server]:
    server.awake = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.awake.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def scripted(home: Path, *script: Act) -> Iterator[tuple[_Server, str]]:
    path = home / "s"
    with running(_Server(socket.AF_UNIX, str(path), list(script))) as server:
        yield server, f"unix://{path}"


@contextmanager
def client(url: str, patience: Patience = QUICK, **options: Any) -> Iterator[RemoteEngine]:
    with RemoteEngine.open(url, patience=patience, **options) as engine:
        yield engine


@pytest.mark.parametrize(
    "failure",
    [
        drop,
        cut,
        answer(502),
        answer(503),
        answer(504),
        problem(errors.Overloaded, "too much", Retry_After="0"),
        problem(errors.Unavailable, "not yet"),
    ],
)
def test_reading_is_tried_again(home: Path, failure: Act) -> None:
    with scripted(home, failure, failure) as (server, url), client(url) as engine:
        fisk = engine.get("a")
        assert (fisk.id, fisk.created_at.isoformat()) == (FISK["id"], "2026-01-02T03:04:05+00:00")
    assert [each[:2] for each in server.seen] == [("GET", "/v1/fisks/a")] * 3


@pytest.mark.parametrize("failure", [drop, cut, answer(502), answer(503)])
def test_a_create_is_tried_again_under_the_same_id(home: Path, failure: Act) -> None:
    with scripted(home, failure) as (server, url), client(url) as engine:
        engine.create("a", 4096)
        engine.snapshot("a", "s")
    bodies = [each[2] for each in server.seen]
    assert bodies[0] == bodies[1]
    assert len({bodies[0]["id"], bodies[2]["id"]}) == 2


@pytest.mark.parametrize("failure", [drop, cut, answer(502)])
def test_what_may_have_been_done_is_not_done_twice(home: Path, failure: Act) -> None:
    with scripted(home, failure, failure, failure) as (server, url), client(url) as engine:
        for verb in (
            lambda: engine.revert("a", "b"),
            lambda: engine.clone("a", "b", count=2),
            lambda: engine.set("a", role="image"),
        ):
            with pytest.raises(errors.Unavailable):
                verb()
    assert len(server.seen) == 3


def test_what_was_surely_not_done_is_tried_again(home: Path) -> None:
    script = [problem(errors.Overloaded, "later", Retry_After="0"), answer(503)]
    with scripted(home, *script) as (server, url), client(url) as engine:
        assert engine.revert("a", "b").name == "a"
    assert len(server.seen) == 3


def test_retry_after_is_respected(home: Path) -> None:
    script = [problem(errors.Overloaded, "later", Retry_After="1")]
    with scripted(home, *script) as (_, url), client(url) as engine:
        begun = time.monotonic()
        engine.get("a")
        assert time.monotonic() - begun >= 1


def test_no_pause_goes_beyond_the_deadline(home: Path) -> None:
    script = [problem(errors.Overloaded, "much later", Retry_After="3600")]
    with scripted(home, *script) as (server, url), client(url) as engine:  # noqa: SIM117
        with pytest.raises(errors.Overloaded, match="much later"):
            engine.get("a")
    assert len(server.seen) == 1


def test_a_deletion_whose_answer_got_lost_is_done(home: Path) -> None:
    script = [drop, problem(errors.NotFound, "no such schedule")]
    with scripted(home, *script, script[1]) as (server, url), client(url) as engine:
        engine.schedules.delete(FISK["id"])
        with pytest.raises(errors.NotFound):
            engine.schedules.delete(FISK["id"])
    assert len(server.seen) == 3


def test_an_answer_that_does_not_come(home: Path) -> None:
    with scripted(home, sleep(30)) as (server, url), client(url, HASTY) as engine:  # noqa: SIM117
        with pytest.raises(errors.Unavailable, match="did not answer in time"):
            engine.get("a")
    assert len(server.seen) == 1


def test_nobody_there(home: Path) -> None:
    with client(f"unix://{home}/none", HASTY) as engine, pytest.raises(errors.Unavailable, match="reached"):
        engine.get("a")


def test_a_daemon_that_comes_back_is_waited_for(home: Path) -> None:
    results: list[Any] = []
    path = f"unix://{home}/s"
    with client(path) as engine:
        thread = threading.Thread(target=lambda: results.append(engine.revert("a", "b").name))
        thread.start()
        with scripted(home):
            thread.join(10)
    assert results == ["a"]


@pytest.mark.parametrize("kind", [errors.NotFound, errors.NoSpace, errors.ImageRefused, errors.Forbidden])
def test_errors_keep_their_type_and_words(home: Path, kind: type[errors.FiskError]) -> None:
    with scripted(home, problem(kind, "words")) as (server, url), client(url) as engine:  # noqa: SIM117
        with pytest.raises(kind, match=r"^words$"):
            engine.get("a")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(401, errors.Unauthenticated), (404, errors.NotFound), (418, errors.ProtocolError)]
)
def test_answers_of_something_else_than_a_daemon(
    home: Path, status: int, kind: type[errors.FiskError]
) -> None:
    with (
        scripted(home, answer(status, {"detail": "?"}), answer(200, [1, 2])) as (_, url),
        client(url) as engine,
    ):
        with pytest.raises(kind):
            engine.get("a")
        with pytest.raises(errors.ProtocolError, match="not a Fisk"):
            engine.get("a")


def test_connections_are_kept_and_shared_by_threads(home: Path) -> None:
    with scripted(home) as (server, url), client(url) as engine:
        for name in ("a", "b", "c"):
            engine.get(name)
        assert server.connections == 1
        threads = [threading.Thread(target=lambda: engine.get("a")) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(server.seen) == 11
        assert server.connections <= 9


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # the server is a thread
def test_a_child_does_not_use_its_parents_connection(home: Path) -> None:
    with scripted(home) as (server, url), client(url) as engine:
        engine.get("a")
        child = os.fork()
        if not child:
            status = 1
            try:
                status = int(engine.get("b").name != "a")
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        engine.get("c")
        assert server.connections == 2
        assert [each[1].rpartition("/")[2] for each in server.seen] == ["a", "b", "c"]


def test_a_socket_with_a_long_path(home: Path) -> None:
    folder = home / ("x" * 90) / ("y" * 90)
    folder.mkdir(parents=True)
    with scripted(home) as (_, url):
        (folder / "fiskd.sock").symlink_to(url.removeprefix("unix://"))
        with client(f"unix://{folder}/fiskd.sock") as engine:
            assert engine.get("a").name == "a"


# Who we are


def test_token_and_tls(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_certificates(tmp_path)
    server = _Server(socket.AF_INET, ("127.0.0.1", 0), [])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server-cert.pem", tmp_path / "server-key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with running(server):
        url = f"https://localhost:{server.server_address[1]}"
        ca = str(tmp_path / "ca-cert.pem")
        with client(url, HASTY, token="secret") as engine, pytest.raises(errors.Unavailable):
            engine.get("a")  # whose certificate nobody vouches for
        assert not server.seen
        with client(url, token="secret", cacert=ca) as engine:
            engine.get("a")
        monkeypatch.setenv("FISK_URL", url)
        monkeypatch.setenv("FISK_TOKEN", "other")
        monkeypatch.setenv("FISK_CACERT", ca)
        with RemoteEngine.open() as engine:
            engine.get("a")
    assert [each[3]["Authorization"] for each in server.seen] == ["Bearer secret", "Bearer other"]


@pytest.mark.parametrize("url", ["http://example.org:1/", "http://192.0.2.1:8080"])
def test_no_token_travels_in_the_clear(url: str) -> None:
    with pytest.raises(errors.InvalidValue, match="unencrypted"):
        RemoteEngine.open(url, token="secret")


@pytest.mark.parametrize("url", ["ftp://x", "unix://relative", "unix:", "http://", "http://[::1", "/a/path"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(errors.InvalidValue, match="URL"):
        RemoteEngine.open(url)


# Events


def event(num: int) -> bytes:
    told = {"num": num, "kind": "fisk.created", "at": "2026-01-02T03:04:05Z", "fisk_id": None, "data": {}}
    return f"id: {num}\nevent: fisk.created\ndata: {json.dumps(told)}\n\n".encode()


def streaming(*parts: bytes) -> Act:
    def act(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for part in parts:
            handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            handler.wfile.flush()
        drop(handler)

    return act


def test_events_go_on_where_they_broke_off(home: Path) -> None:
    whole = event(3) + event(4)
    script = [
        streaming(b": hello\n\n", event(1), event(2)[:20], event(2)[20:], event(3)[:30]),
        drop,
        answer(503),
        streaming(whole[:100], whole[100:]),
    ]
    with scripted(home, *script) as (server, url), client(url) as engine:
        found = engine.events(after=0)
        assert [next(found).num for _ in range(4)] == [1, 2, 3, 4]
        found.close()
    assert [each[1] for each in server.seen] == ["/v1/events?after=0"] + ["/v1/events?after=2"] * 3


def test_events_end_when_nobody_answers_any_more(home: Path) -> None:
    with client(f"unix://{home}/s", HASTY) as engine:
        with scripted(home, streaming(event(1))):
            found = engine.events()
            assert next(found).num == 1
        with pytest.raises(errors.Unavailable):
            next(found)


def test_events_that_are_not_for_us(home: Path) -> None:
    with scripted(home, problem(errors.Forbidden, "not for you")) as (_, url), client(url) as engine:  # noqa: SIM117
        with pytest.raises(errors.Forbidden):
            next(engine.events())
