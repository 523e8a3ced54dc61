# SPDX-License-Identifier: Apache-2.0
"""``python -m proof.hostile.names ORDER``: words, numbers and documents of strangers, to a real daemon.

Through every operation of the REST API, and through commands, which run in this process.  Nothing may end in
a 5xx or an unexpected exception, make a header, a log line, an event or a terminal do what it says, or name a
file outside of the home directory; what is accepted comes back as it was given.
"""

import contextlib
import csv
import http.client
import io
import json
import logging
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fisk_core.cli.shell import main as command
from proof.hostile.inside import Order, end_in_order
from proof.hostile.judge import Broken, require
from proof.hostile.strings import document, value, word
from proof.hostile.target import descriptors
from tests.fiskds import Fiskd, UnixConnection, running

ANSWER_SECONDS = 30.0
_REF, _ID = "stays", "00000000-0000-4000-8000-000000000000"
_LABELS = {"label": "x", "qos.total_iops": "1000"}
_NEW = {"name": "n", "size": 1 << 20, "role": "volume", "attributes": _LABELS}
_BODIES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", "/v1/fisks", _NEW),
    ("POST", "/v1/fisks", {**_NEW, "id": _ID, "block_size": 4096, "page_size": 1 << 22, "pool": "default"}),
    ("PATCH", "/v1/fisks/stays", {"attributes": _LABELS}),
    ("PATCH", "/v1/fisks/stays", {"role": "volume", "attributes": {"expires": "2030-01-01T00:00:00Z"}}),
    ("POST", "/v1/fisks/stays/snapshots", {"name": "s", "role": "snapshot", "attributes": {"a": "b"}}),
    ("POST", "/v1/fisks/stays/clones", {"name": "c", "count": 2, "role": "volume", "attributes": {"a": "b"}}),
    ("POST", "/v1/fisks/stays/resize", {"size": 1 << 20, "shrink": False}),
    ("POST", "/v1/fisks/stays/revert", {"to": "none"}),
    ("POST", "/v1/deletions", {"refs": ["none"], "force": False}),
    ("POST", "/v1/snapshots", {"snapshots": [{"fisk": "stays", "name": "g"}]}),
    ("POST", "/v1/fisks/stays/attachments", {"access": "none", "consumer": "c", "options": {"a": "b"}}),
    ("POST", "/v1/fisks/stays/locks", {"offset": 0, "length": 512, "owner": "o", "ttl": 1.0, "wait": 0.0}),
    ("POST", "/v1/schedules",
     {"fisk": "stays", "interval": 3600, "retention": {"last": 3}, "prefix": "p", "enabled": False}),
    ("POST", "/v1/pools", {"name": "p", "driver": "file", "options": {"checksum": "none"}}),
    ("POST", "/v1/tokens", {"name": "t", "role": "reader", "seconds": 60}),
    ("POST", "/v1/jobs", {"kind": "scrub", "arguments": {"fisk": "stays"}}),
    ("POST", "/v1/jobs", {"kind": "none", "arguments": {}}),
    ("POST", "/v1/builds", {"name": "b", "size": 1 << 20}),
    ("POST", "/v1/upgrades", {"ref": "none"}),
    ("PUT", f"/v1/locks/{_ID}", {"ttl": 1.0}),
)  # fmt: skip
_PATHS = (
    "/v1/fisks/{}", "/v1/fisks/{}/usage", "/v1/fisks/{}/route", "/v1/fisks/{}/map", "/v1/fisks/{}/tree",
    "/v1/fisks/{}/diff", "/v1/pools/{}", "/v1/pools/{}/space", "/v1/schedules/{}", "/v1/jobs/{}",
    "/v1/attachments/{}", "/v1/tokens/{}", "/ui/{}", "/v1/{}", "/{}",
)  # fmt: skip
_QUERIES = ("/v1/fisks", "/v1/jobs", "/v1/attachments", "/v1/schedules", "/v1/fisks/stays/map",
            "/v1/fisks/stays/diff", "/v1/fisks/stays/route")  # fmt: skip
_KEYS = ("role", "state", "pool", "name", "attribute", "limit", "marker", "kind", "host", "fisk", "buckets",
         "to", "offset", "after")  # fmt: skip
_EVENT = re.compile(rb"(id: \d+|event: [a-z_.]+|data: \{.*\}|: [a-z]+|)")
_TERMINAL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_STATUSES = {0, *range(2, 22)}


@dataclass
class Report:
    """What came of it."""

    names: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    grown: int = 0
    """bytes of memory of the daemon"""
    descriptors: int = 0
    slowest: float = 0.0
    broken: str = ""
    input: str = ""


class Api:
    """Asks a daemon over its unix socket, as an administrator does."""

    def __init__(self, fiskd: Fiskd) -> None:
        self._fiskd = fiskd
        self._connection: UnixConnection | None = None

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Any]:
        """Give status, body and headers; raises Broken when none comes."""
        for _ in range(2):  # the daemon may have hung up after the answer before
            connection = self._connection or UnixConnection(self._fiskd.socket, ANSWER_SECONDS)
            self._connection = connection
            try:
                connection.request(
                    method, path, body, {"Content-Type": "application/json", **(headers or {})}
                )
                answer = connection.getresponse()
                return answer.status, answer.read(), answer.headers
            except (ConnectionError, http.client.HTTPException):
                connection.close()
                self._connection = None
            except TimeoutError as exc:
                raise Broken(f"{method} {path[:200]}: no answer") from exc
        require(self._fiskd.process is not None and self._fiskd.process.poll() is None, "the daemon ended")
        return 0, b"", {}  # it hung up: what it was sent is no HTTP

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class Attack:
    """Chooses words and places for them."""

    def __init__(self, fiskd: Fiskd, home: Path, seed: int) -> None:
        self._fiskd, self._home, self._chance = fiskd, home, random.Random(seed)
        self.api = Api(fiskd)
        self.report = Report()
        self.counts: Counter[str] = Counter()
        self.last = ""
        self.api.ask("POST", "/v1/fisks", json.dumps({"name": _REF, "size": 1 << 20}).encode())
        self._around = sorted(os.listdir(home.parent))
        self._ways = (self._post, self._post, self._post, self._look, self._query, self._label, self._headers)

    def run(self, go_on: Callable[[int], bool]) -> None:
        """Raises Broken."""
        number, before = 0, 0
        while go_on(number):
            number += 1
            if number % 40 == 0:
                self._command()
            else:
                self._chance.choice(self._ways)()
            self.report.names += 1
            if number % 400 == 0:
                self._tidy()
                before = before or _resident(self._fiskd.pid)
                self.report.grown = max(self.report.grown, _resident(self._fiskd.pid) - before)
        self._tidy()
        self._after()

    # Through the API

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        self.last = f"{method} {path[:500]} {(body or b'')[:2000]!r} {headers}"
        began = time.monotonic()
        status, content, told = self.api.ask(method, path, body, headers)
        self.report.slowest = max(self.report.slowest, time.monotonic() - began)
        # 501: what this host cannot do, said by a class of errors; 507 does not come here.
        require(status < 500 or status == 501, f"an answer of {status}: {content[:300]!r}")
        require("x-injected" not in told, "a header was injected")
        if content and status >= 400:
            require(isinstance(json.loads(content)["detail"], str), "a problem without a detail")
        self.counts[f"{status // 100}xx" if status else "hung up"] += 1
        return status, content

    def _post(self) -> None:
        method, path, body = self._chance.choice(_BODIES)
        self._ask(method, path, document(self._chance, body))

    def _look(self) -> None:
        name = quote(word(self._chance)[:2000].encode("utf-8", "surrogatepass"), safe="")
        method = self._chance.choice(("GET", "GET", "GET", "DELETE", "PATCH"))
        path = self._chance.choice(_PATHS).format(name)
        if path not in ("/v1/fisks/stays", "/v1/pools/default"):
            self._ask(method, path, b"{}" if method == "PATCH" else None)

    def _query(self) -> None:
        chosen = self._chance.choices(_KEYS, k=self._chance.choice((1, 2, 3)))
        words = "&".join(f"{key}={quote(str(value(self._chance))[:2000], safe='')}" for key in chosen)
        self._ask("GET", f"{self._chance.choice(_QUERIES)}?{words}")

    def _label(self) -> None:
        """What is accepted as an attribute comes back as it was."""
        key, given = word(self._chance)[:300], word(self._chance)
        body = json.dumps({"attributes": {key: given}}).encode()
        status, content = self._ask("PATCH", "/v1/fisks/stays", body)
        if status == 200:
            self.counts["labels kept"] += 1
            require(json.loads(content)["attributes"][key] == given, "a label was changed on its way")
            _, content = self._ask("GET", "/v1/fisks/stays")
            require(json.loads(content)["attributes"][key] == given, "a label was changed in the catalog")
            self._ask("PATCH", "/v1/fisks/stays", json.dumps({"attributes": {key: None}}).encode())

    def _headers(self) -> None:
        """Headers that a client may send, with anything in them that HTTP lets pass."""
        said = re.sub(r"[^\t\x20-\x7e\x80-\xff]", "", word(self._chance))[:8000].strip()
        name = self._chance.choice(("X-Request-Id", "Authorization", "Accept", "If-Match", "Host", "Expect",
                                    "Content-Length", "Transfer-Encoding", "X-Forwarded-For"))  # fmt: skip
        if name == "Authorization" and self._chance.random() < 0.5:
            said = f"Bearer {said}"
        with contextlib.suppress(ValueError):  # the client library refuses some
            self._ask("GET", "/v1/fisks", headers={name: said})
        if name in ("Content-Length", "Transfer-Encoding", "Expect"):
            self.api.close()  # what follows would be read as a body
            self.api = Api(self._fiskd)

    # Through commands

    def _command(self) -> None:
        """A command with a word of a stranger's, then what a person and a program see of it."""
        said = word(self._chance).replace("\0", "")[:100_000] or "x"
        words = self._chance.choice(
            (
                ["create", said, "1M"], ["create", "cli", said], ["set", _REF, "--attribute", f"k={said}"],
                ["set", _REF, "--attribute", f"{said}=v"], ["show", said], ["list", said], ["delete", said],
                ["snapshot", _REF, said], ["clone", _REF, said], ["resize", _REF, said], [said],
                ["list", "--attribute", said], ["qos", "set", _REF, said], ["import", said, "imported"],
                ["schedule", "create", _REF, "--interval", said], ["job", "show", said],
                ["pool", "create", said, said], ["token", "create", said], ["attach", _REF, "--access", said],
                ["event", "list", "--kind", said], ["list", "--column", said],
            )
        )  # fmt: skip
        status, shown, complained = self._run(words)
        require(status in _STATUSES, f"status {status}: {complained[-500:]}")
        require("unexpected" not in complained and "Traceback" not in complained, complained[-1500:])
        for text in (shown, complained):
            found = _TERMINAL.search(text)
            require(found is None, f"{found!r} was printed")
        if words[:1] == ["set"] and status == 0:
            self._compare(words[3])
        self.counts["commands"] += 1

    def _compare(self, pair: str) -> None:
        """A label set by a command is shown by it whole to programs, and harmless to people."""
        key, _, given = pair.partition("=")
        _, shown, _ = self._run(["show", _REF, "-f", "json"])
        require(json.loads(shown)["attributes"][key] == given, "JSON of a command changed a label")
        _, shown, _ = self._run(["list", "--long", "-f", "csv"])
        rows = list(csv.DictReader(io.StringIO(shown, newline=""), escapechar="\\"))
        require(
            any(given in row["Attributes"] or repr(given) in row["Attributes"] for row in rows), "CSV lost it"
        )
        for words in (["show", _REF], ["list", "--long"], ["event", "list"]):
            _, shown, _ = self._run(words)
            require(_TERMINAL.search(shown) is None, f"fisk {' '.join(words)} printed a label raw")
        self._run(["set", _REF, "--unset", key])

    def _run(self, words: list[str]) -> tuple[int, str, str]:
        """Run a command in this process; gives status, output and complaints."""
        self.last = f"fisk {words!r}"[:3000]
        out, complaints = (io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape", "", True) for _ in "12")
        root = logging.getLogger()
        handlers, level = list(root.handlers), root.level
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaints):
            try:
                status = command(["--url", self._fiskd.url, *words])
            except SystemExit as exc:
                status = exc.code if isinstance(exc.code, int) else 2
        root.handlers[:], root.level = handlers, level
        return status, _said(out), _said(complaints)

    # Afterwards

    def _tidy(self) -> None:
        """Remove what was accepted, so that the daemon does not fill up with it."""
        for path, key in (("/v1/schedules", "id"), ("/v1/tokens", "name")):
            for each in json.loads(self.api.ask("GET", path)[1])[path.rpartition("/")[2]]:
                self.api.ask("DELETE", f"{path}/{each[key]}")
        found = json.loads(self.api.ask("GET", "/v1/fisks?limit=1000")[1])["fisks"]
        refs = [each["id"] for each in found if each["name"] != _REF][:200]
        if refs:
            self.api.ask("POST", "/v1/deletions", json.dumps({"refs": refs, "force": True}).encode())
        require(
            sorted(os.listdir(self._home.parent)) == self._around, "something was made outside of the home"
        )

    def _after(self) -> None:
        """The log has no line that was not the daemon's; events are events."""
        for line in self._fiskd.log.splitlines():
            require("INJECTED" not in line[:30], f"a line of the log was injected: {line[:200]!r}")
            require("Traceback" not in line and " ERROR " not in line[:60], f"the log says {line[:300]!r}")
        require("\x1b" not in self._fiskd.log, "the log has an escape sequence")
        _, told, _ = self.api.ask("GET", "/healthz")
        require(json.loads(told) is not None, "the daemon is not well")
        self._events()

    def _events(self) -> None:
        connection = UnixConnection(self._fiskd.socket, 5)
        try:
            connection.request("GET", "/v1/events?after=0")
            text = connection.getresponse().read1(1 << 20)
        finally:
            connection.close()
        for line in text.split(b"\n")[:-1]:
            require(_EVENT.fullmatch(line) is not None, f"no event: {line[:100]!r}")
            require(not line.startswith(b"event: injected"), "an event was injected")


def _said(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode("utf-8", "replace")


def _resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("RssAnon")).split()[1]) << 10


def run(order: Order) -> Report:
    """Do what the order says; what was broken is in the report."""
    home = Path(order.home) / "names" / "h"
    home.parent.mkdir()
    with running(home, api={"max_jobs": 5}) as fiskd:
        attack = Attack(fiskd, home, order.seed)
        before = descriptors()
        try:
            attack.run(order.clock())
        except Broken as exc:
            attack.report.broken, attack.report.input = str(exc), attack.last
        finally:
            attack.api.close()
        attack.report.descriptors = max(0, descriptors() - before)
        attack.report.counts = dict(attack.counts)
    return attack.report


if __name__ == "__main__":
    end_in_order()
    order = Order(**json.loads(Path(sys.argv[1]).read_text()))
    Path(order.report).write_text(json.dumps(asdict(run(order))))
