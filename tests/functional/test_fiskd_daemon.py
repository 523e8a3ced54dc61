# SPDX-License-Identifier: Apache-2.0
"""The daemon as a process: one for each home, signals, restarts, systemd, what it refuses to listen at."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import requests

from fisk_core.api.app import policies
from fisk_core.api.identity import Groups
from fisk_core.api.policy import Guard
from fisk_core.config import Home
from fisk_core.daemon import listeners, options
from fisk_core.dataplane.client import NbdClient
from fisk_core.errors import InvalidValue, NotFound
from tests.fiskds import Fiskd, UnixConnection, configure, running

JSON = {"Content-Type": "application/json"}
MIB = 1 << 20


def refused(home: Path, *words: str) -> str:
    """Run a daemon that shall not start; gives what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "fisk_core.daemon", "--home", home, *words],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode not in (0, 1), done.stderr
    return done.stderr.splitlines()[-1]


def post(fiskd: Fiskd, path: str, body: object) -> dict[str, object]:
    status, _, text = fiskd.request("POST", path, json.dumps(body).encode(), JSON)
    assert status < 300, text
    return dict(json.loads(text))


def connected(uri: str) -> NbdClient:
    """Connect as soon as somebody listens."""
    while True:
        with suppress(NotFound):
            return NbdClient.connect(uri)


def test_there_is_one_daemon_for_a_home_until_it_is_told_to_stop(home):
    with running(home) as fiskd:
        assert "another fiskd serves" in refused(home)
        assert fiskd.request("GET", "/healthz")[0] == 200
        command = [sys.executable, "-m", "fisk_core.daemon", "--home", home, "stop"]
        with subprocess.Popen(command) as stop:  # fiskd is our child: it is gone when we waited for it
            assert fiskd.process is not None
            assert fiskd.process.wait(30) == 0
            assert stop.wait(30) == 0
        assert "no fiskd serves" in refused(home, "stop")


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_workers_outlive_the_daemon_and_are_found_again(home, end):
    with running(home) as fiskd:
        post(fiskd, "/v1/fisks", {"name": "disk", "size": MIB})
        attached = post(fiskd, "/v1/fisks/disk/attachments", {"consumer": "test"})
        with NbdClient.connect(attached["uris"][0]) as client:
            getattr(fiskd, end)()
            assert fiskd.socket.is_socket() is (end == "kill")  # a dead one's is no obstacle
            client.write(0, b"while nobody looks")
            client.flush()
            fiskd.start()
            assert bytes(client.read(0, 18)) == b"while nobody looks"
        (worker,) = json.loads(fiskd.request("GET", "/v1/workers")[2])["workers"]
        assert worker["restarts"] == 0
        assert worker["metrics"]["writes"] == 1
        text = fiskd.request("GET", "/metrics")[2].decode()
        labels = f'fisk="{worker["fisk_id"]}",name="disk"'
        assert f'fisk_operations_total{{{labels},operation="writes"}} 1.0' in text
        assert f"fisk_write_latency_seconds_count{{{labels}}} 1.0" in text
        listed = json.loads(fiskd.request("GET", "/v1/attachments?fisk=disk")[2])["attachments"]
        assert [each["id"] for each in listed] == [attached["id"]]
        assert post(fiskd, "/v1/upgrades", {}) == {"upgraded": 1}
        for _ in range(2):
            assert fiskd.request("DELETE", f"/v1/attachments/{attached['id']}")[0] == 204


def test_a_build_is_written_by_nbd_and_then_shown(home):
    with running(home) as fiskd:
        build = post(fiskd, "/v1/builds", {"name": "image", "size": MIB})
        with NbdClient.connect(str(build["uri"])) as client:
            client.write(0, b"built")
            client.flush()
        done = {"size": MIB, "frozen": True}
        fisk = post(fiskd, f"/v1/builds/{build['fisk_id']}/finish", done)
        assert fisk["state"] == "frozen"
        other = post(fiskd, "/v1/builds", {"name": "other", "size": MIB})
        for _ in range(2):
            assert fiskd.request("DELETE", f"/v1/builds/{other['fisk_id']}")[0] == 204


def test_draining_ends_the_workers_and_they_come_back(home):
    with running(home) as fiskd:
        post(fiskd, "/v1/fisks", {"name": "disk", "size": MIB})
        attached = post(fiskd, "/v1/fisks/disk/attachments", {})
        (worker,) = json.loads(fiskd.request("GET", "/v1/workers")[2])["workers"]
        fiskd.drain()
        assert not Path(f"/proc/{worker['pid']}").exists()
        fiskd.start()
        with connected(attached["uris"][0]) as client:
            assert client.size == MIB
        fiskd.request("DELETE", f"/v1/attachments/{attached['id']}")


def test_what_waits_or_streams_does_not_keep_it_from_ending(home):
    with running(home, api={"stop_seconds": 600}) as fiskd, ExitStack() as stack:
        post(fiskd, "/v1/fisks", {"name": "disk", "size": MIB})
        lock = {"offset": 0, "length": 1}
        post(fiskd, "/v1/fisks/disk/locks", lock)
        stream, waiter = (stack.enter_context(closing(UnixConnection(fiskd.socket))) for _ in range(2))
        stream.request("GET", "/v1/events")
        told = stream.getresponse()
        assert told.readline() == b": fisk\n"
        waiter.request("POST", "/v1/fisks/disk/locks", json.dumps({**lock, "wait": 60.0}).encode(), JSON)
        with closing(sqlite3.connect(home / "catalog.sqlite")) as catalog:
            while catalog.execute("SELECT count(*) FROM range_locks").fetchone() != (2,):
                pass  # until it stands in the queue
        assert fiskd.stop() == 0
        assert waiter.getresponse().status == 409
        told.read()


def test_the_policy_and_the_level_of_logs_are_read_anew(home):
    with running(home) as fiskd:
        assert fiskd.request("GET", "/v1/fisks")[0] == 200
        (home / "policy.yaml").write_text('"fisks:list": "name:somebody"\n')
        fiskd.process.send_signal(signal.SIGHUP)
        while fiskd.request("GET", "/v1/fisks")[0] != 403:
            pass
        (home / "policy.yaml").write_text("[broken")
        fiskd.process.send_signal(signal.SIGHUP)
        while "not everything was read anew" not in fiskd.log:
            pass
        assert fiskd.request("GET", "/v1/fisks")[0] == 403
        (home / "policy.yaml").unlink()
        fiskd.process.send_signal(signal.SIGHUP)
        while fiskd.request("GET", "/v1/fisks")[0] != 200:
            pass


def test_systemd_is_told(home):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        path = home / "notify"
        notified.bind(str(path))
        notified.settimeout(30)
        environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"}
        with running(home, environment) as fiskd:
            assert "READY=1" in notified.recv(4096).decode().splitlines()
            for _ in range(2):
                assert notified.recv(4096) == b"WATCHDOG=1"
            fiskd.stop()
            while (told := notified.recv(4096)) == b"WATCHDOG=1":
                pass
            assert told == b"STOPPING=1"


def test_plain_tcp_on_loopback(home):
    with running(home, api={"listen": "[::1]:0" if _has_ipv6() else "127.0.0.1:0"}) as fiskd:
        host = "[::1]" if _has_ipv6() else "127.0.0.1"
        assert requests.get(f"http://{host}:{fiskd.port}/healthz", timeout=20).status_code == 200
        assert requests.get(f"http://{host}:{fiskd.port}/v1", timeout=20).status_code == 401


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.parametrize(
    ("api", "why"),
    [
        ({"listen": "0.0.0.0:0"}, "beyond loopback"),
        ({"listen": "0.0.0.0:0", "allow_remote": "true"}, "needs tls_cert"),
        ({"listen": "127.0.0.1:0", "tls_cert": "x.pem"}, "belong together"),
        ({"listen": "127.0.0.1:0", "tls_cert": "/nix", "tls_key": "/nix"}, "cannot be used"),
        ({"listen": "nowhere"}, "is not an IP address"),
        ({"listen": "127.0.0.1:99999"}, "is not an IP address"),
        ({"operator_group": "no-such-group"}, "there is no group"),
        ({"max_body": "0"}, "max_body"),
    ],
)
def test_options_that_make_no_sense_or_are_not_allowed(home, api, why):
    configure(home, {"api": api})
    with pytest.raises(InvalidValue, match=why):
        check(Home(home))


def check(home: Home) -> None:
    """Read the options and look at those that a daemon looks at before it begins."""
    conf = options.read(home)
    where = listeners.address(conf)
    if where is not None and where.tls:
        listeners.tls_context(where)
    Groups.named(conf.api.operator_group, conf.api.reader_group)


def test_with_such_options_it_does_not_start(home):
    configure(home, {"api": {"listen": "0.0.0.0:0"}})
    assert "beyond loopback" in refused(home)
    assert not (home / "run" / "fiskd.sock").exists()


def test_a_policy_that_makes_no_sense(home):
    policy = home / "policy.yaml"
    for text in ('"fisks:list": "rule:unheard-of"', "[broken", "- a list", '"fisks:list": 7'):
        policy.write_text(text)
        with pytest.raises(InvalidValue, match="policy"):
            Guard(options.read(Home(home)), policies(), policy)


def test_health_says_what_is_wrong(home):
    with running(home) as fiskd:
        post(fiskd, "/v1/fisks", {"name": "disk", "size": MIB})
        away = home / "pools-away"
        os.rename(home / "pools", away)
        status, _, text = fiskd.request("GET", "/healthz")
        assert (status, json.loads(text)["healthy"]) == (503, False)
        assert "pool default" in text.decode()
        os.rename(away, home / "pools")
        assert fiskd.request("GET", "/healthz")[0] == 200
