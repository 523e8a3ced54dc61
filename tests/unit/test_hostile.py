# SPDX-License-Identifier: Apache-2.0
"""The fuzzers of ``proof.hostile`` can fail: each finds the fault that is made on purpose here."""

import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest

from fisk_core.dataplane import client_handshake, client_transmission
from fisk_core.dataplane import protocol as p
from proof.hostile import control, liar, names, target
from proof.hostile.canary import Canaries
from proof.hostile.grammar import Conversation, conversation
from proof.hostile.inside import seeds_in
from proof.hostile.judge import Broken
from proof.hostile.surfaces import Surfaces, surfaces
from proof.hostile.target import SIZE

CORPUS = Path(__file__).parents[2] / "proof" / "hostile" / "corpus"
HELLO = p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 0)


@pytest.fixture(scope="module")
def found() -> Iterator[Surfaces]:
    with TemporaryDirectory(prefix="fisk-") as home, surfaces(Path(home)) as made:
        yield made


def said(kind: int, offset: int = 0, length: int = 512, payload: bytes = b"") -> Conversation:
    """One request of a client that behaves."""
    return Conversation([HELLO, p.REQUEST.pack(p.REQUEST_MAGIC, 0, kind, 7, offset, length) + payload])


def test_every_seed_passes_a_server_that_behaves(found: Surfaces) -> None:
    seeds = seeds_in(CORPUS)
    assert len(seeds) < 60
    for seed in seeds:
        found.run(seed)
    assert found.counts["replies"] > 10


def test_the_same_program_is_the_same_conversation(found: Surfaces) -> None:
    for seed in seeds_in(CORPUS):
        first, second = (conversation(seed[1:], found.scene.world) for _ in range(2))
        assert first == second


def test_bytes_that_the_disk_never_held(found: Surfaces, monkeypatch: pytest.MonkeyPatch) -> None:
    transmission = found.live.server.transmission

    def leaking(view: memoryview, offset: int, length: int) -> bool:
        view[:length] = found.scene.sentinel[:length]
        return True

    monkeypatch.setattr(transmission, "fast", SimpleNamespace(read=leaking, write=transmission.fast.write))
    with pytest.raises(Broken, match="never held"):
        found.trial.run(said(p.CMD_READ))


@pytest.mark.parametrize(("times", "reason"), [(0, "no reply"), (2, "nobody asked")])
def test_not_exactly_one_reply(
    found: Surfaces, monkeypatch: pytest.MonkeyPatch, times: int, reason: str
) -> None:
    transmission = found.live.server.transmission
    succeed = transmission.succeed
    monkeypatch.setattr(transmission, "succeed", lambda request: [succeed(request) for _ in range(times)])
    with pytest.raises(Broken, match=reason):
        found.trial.run(said(p.CMD_CACHE))


def test_a_request_that_should_be_refused(found: Surfaces, monkeypatch: pytest.MonkeyPatch) -> None:
    transmission = found.live.server.transmission
    monkeypatch.setattr(transmission, "check", lambda request: None)
    monkeypatch.setitem(transmission._handlers, p.CMD_CACHE, transmission.succeed)
    with pytest.raises(Broken, match="instead of 22"):
        found.trial.run(said(p.CMD_CACHE, SIZE, 512))


def test_a_write_that_is_lost(found: Surfaces, monkeypatch: pytest.MonkeyPatch) -> None:
    transmission = found.live.server.transmission
    monkeypatch.setitem(transmission._handlers, p.CMD_WRITE_ZEROES, transmission.succeed)
    with pytest.raises(Broken, match="never held"):
        found.trial.run(said(p.CMD_WRITE_ZEROES, 0, 4096))


def test_a_server_that_hangs(found: Surfaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "HANG_SECONDS", 0.2)
    monkeypatch.setattr(found.live.server.transmission, "process", lambda conn: conn.watch())
    with pytest.raises(Broken):
        found.trial.run(said(p.CMD_FLUSH))


def test_an_exception_ends_a_worker(found: Surfaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found.live.server.export, "name", "\ud800")
    with pytest.raises(UnicodeEncodeError):
        found.trial.run(Conversation([p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.OPTION_MAGIC, 1, 1) + b"x"]))


def test_a_changed_sentinel(found: Surfaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found.scene, "sentinel", b"another")
    with pytest.raises(Broken, match="another Fisk"):
        found.scene.check_sentinel()


def test_a_client_that_shows_what_a_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (client_handshake, client_transmission):
        monkeypatch.setattr(module, "clean_text", lambda data: bytes(data).decode(errors="replace"))
    refusing = bytes([63, 0, 0, 0, 3, 7, 2])
    with pytest.raises(Broken, match="unprintable"):
        liar.listen(refusing)


def test_a_control_request_that_is_never_answered(found: Surfaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "HANG_SECONDS", 0.2)
    monkeypatch.setitem(found.lines._control._operations, "status", lambda request, reply: None)
    with pytest.raises(Broken, match="never answered"):
        found.lines.run(b'\0{"op":"status"}\n')
    for each in list(found.lines._control.lines):
        each.close()


def test_a_canary_tells(tmp_path: Path) -> None:
    canaries = Canaries(tmp_path)
    try:
        assert not canaries.touched()
        canaries.files[1].open("rb").close()
        assert canaries.touched()
        socket.create_connection(("127.0.0.1", canaries.port)).close()
        assert canaries.touched()
        assert not canaries.touched()
    finally:
        canaries.close()


@pytest.mark.parametrize(
    ("status", "body", "headers", "reason"),
    [
        (500, b"{}", {}, "an answer of 500"),
        (200, b"{}", {"x-injected": "yes"}, "header"),
        (400, b'{"detail": 5}', {}, "without a detail"),
    ],
)
def test_answers_that_no_daemon_may_give(status: int, body: bytes, headers: Any, reason: str) -> None:
    attack = names.Attack.__new__(names.Attack)
    attack.api = SimpleNamespace(ask=lambda *_: (status, body, headers))  # type: ignore[assignment]
    attack.report, attack.counts = names.Report(), Counter()
    with pytest.raises(Broken, match=reason):
        attack._ask("GET", "/")


def test_an_escape_sequence_is_recognised() -> None:
    assert names._TERMINAL.search("a\x1b[31m")
    assert names._TERMINAL.search("\u202e")
    assert not names._TERMINAL.search(json.dumps("\x1b") + "\n│ é\n")
