# SPDX-License-Identifier: Apache-2.0
"""Who may do what: every role at every operation, over TLS with tokens, and users of the unix socket."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import requests

from fisk_core.api.app import operations
from fisk_core.api.identity import ROLES, Tokens
from fisk_core.engine import Engine
from fisk_core.errors import Unauthenticated
from tests.fiskds import Fiskd, running

NOBODY = 65534
_ID = "00000000-0000-4000-8000-000000000000"


def certificate(where: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that signs itself."""
    cert, key = where / "cert.pem", where / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=fiskd", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture(scope="module")
def fiskd() -> Iterator[Fiskd]:
    with TemporaryDirectory(prefix="fisk-") as directory:
        home = Path(directory)
        cert, key = certificate(home)
        api = {"listen": "127.0.0.1:0", "tls_cert": cert, "tls_key": key}
        with running(home, api=api) as started:
            yield started


@pytest.fixture(scope="module")
def secrets(fiskd: Fiskd) -> dict[str, str]:
    """A token of every role, made without the daemon."""
    return {role: command(fiskd, "token", "create", f"t-{role}", "--role", role).strip() for role in ROLES}


def command(fiskd: Fiskd, *words: str) -> str:
    """Run a subcommand of fiskd; gives what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "fisk_core.daemon", "--home", fiskd.home, *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def ask(fiskd: Fiskd, secret: str | None, method: str, path: str, **options: Any) -> requests.Response:
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    url = f"https://127.0.0.1:{fiskd.port}{path}"
    return requests.request(
        method, url, headers=headers, verify=fiskd.home / "cert.pem", timeout=20, **options
    )


@pytest.mark.parametrize(("rule", "role", "what", "method", "path"), sorted(operations()))
def test_a_role_may_do_what_the_policy_says(fiskd, secrets, rule, role, what, method, path):
    if path == "/v1/events":
        pytest.skip("a stream without an end; see the next test")
    place = path.replace("{ref}", "absent").replace("{id}", _ID).replace("{name}", "absent")
    for each, secret in secrets.items():
        # Nothing is sent, so whoever may do something does nothing.
        status = ask(fiskd, secret, method, place).status_code
        allowed = ROLES.index(each) >= ROLES.index(role)
        assert (status != 403) is allowed, (each, rule, status)
        assert status < 500


def test_a_reader_may_follow_events(fiskd, secrets):
    with ask(fiskd, secrets["reader"], "GET", "/v1/events", stream=True) as answer:
        assert answer.status_code == 200
        assert next(answer.iter_lines()) == b": fisk"


@pytest.mark.parametrize(
    "given", [None, "Bearer fisk_unknown", "Bearer ", "Basic Zm9vOmJhcg==", "Bearer \xe9"], ids=str
)
def test_without_a_good_token_nothing_is_told(fiskd, given):
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    url = f"https://127.0.0.1:{fiskd.port}/v1/fisks"
    answer = requests.get(url, headers=headers, verify=fiskd.home / "cert.pem", timeout=20)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["type"] == "urn:fisk:error:unauthenticated"


def test_health_is_for_everybody(fiskd):
    assert ask(fiskd, None, "GET", "/healthz").status_code == 200


def test_a_token_made_and_removed_by_an_administrator(fiskd, secrets):
    made = ask(fiskd, secrets["admin"], "POST", "/v1/tokens", json={"name": "new", "role": "reader"}).json()
    assert ask(fiskd, made["secret"], "GET", "/v1/fisks").status_code == 200
    listed = ask(fiskd, secrets["admin"], "GET", "/v1/tokens").json()["tokens"]
    assert made["token"] in listed
    assert "digest" not in json.dumps(listed)
    again = ask(fiskd, secrets["admin"], "POST", "/v1/tokens", json={"name": "new", "role": "reader"})
    assert again.status_code == 409
    for _ in range(2):
        assert ask(fiskd, secrets["admin"], "DELETE", "/v1/tokens/new").status_code == 204
    assert ask(fiskd, made["secret"], "GET", "/v1/fisks").status_code == 401
    assert made["secret"] not in fiskd.log


def test_tokens_without_the_daemon(fiskd, secrets):
    assert "t-reader" in command(fiskd, "token", "list")
    command(fiskd, "token", "create", "brief", "--days", "1")
    command(fiskd, "token", "delete", "brief")
    assert "brief" not in command(fiskd, "token", "list")


def test_a_token_ends_when_it_expires(home):
    from fisk_core.api import credentials

    with Engine.open(home) as engine:
        made = credentials.make(engine.catalog, "short", "reader", 1)
        tokens = Tokens(engine.catalog)
        assert tokens.holder(made.secret).role == "reader"
        assert tokens.remembered(made.secret) is not None
        while tokens.remembered(made.secret) is not None:
            pass
        with pytest.raises(Unauthenticated, match="expired"):
            tokens.holder(made.secret)


def as_user(fiskd: Fiskd, uid: int, groups: list[int], path: str) -> int:
    """Ask as another user; gives the status, 0 when the socket cannot be reached."""
    code = (
        "import http.client, os, socket, sys\n"
        "uid, *groups = map(int, sys.argv[3:])\n"
        "os.setgroups(groups); os.setgid(uid); os.setuid(uid)\n"
        "c = http.client.HTTPConnection('localhost'); c.sock = socket.socket(socket.AF_UNIX)\n"
        "try:\n    c.sock.connect(sys.argv[1])\n"
        "except PermissionError:\n    print(0); sys.exit()\n"
        "c.request('GET', sys.argv[2]); print(c.getresponse().status); c.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, fiskd.socket, path, *map(str, [uid, *groups])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_groups_have_roles_on_the_unix_socket():
    # Not below $TMPDIR, which others may be kept from.
    with tempfile.TemporaryDirectory(prefix="fisk-", dir="/tmp") as directory:
        _groups_have_roles(Path(directory))


def _groups_have_roles(home):
    import grp

    operators, readers = grp.getgrnam("daemon"), grp.getgrnam("games")
    home.chmod(0o755)
    api = {"socket_group": "users", "operator_group": operators.gr_name, "reader_group": readers.gr_name}
    users = grp.getgrnam("users").gr_gid
    with running(home, api=api) as fiskd:
        assert oct(fiskd.socket.stat().st_mode & 0o777) == "0o660"
        assert as_user(fiskd, NOBODY, [], "/v1") == 0
        assert as_user(fiskd, NOBODY, [users], "/v1") == 403
        assert as_user(fiskd, NOBODY, [users], "/healthz") == 200
        assert as_user(fiskd, NOBODY, [users, readers.gr_gid], "/v1/fisks") == 200
        assert as_user(fiskd, NOBODY, [users, readers.gr_gid], "/v1/tokens") == 403
        assert as_user(fiskd, NOBODY, [users, operators.gr_gid], "/v1/fisks") == 200
        assert as_user(fiskd, NOBODY, [users, operators.gr_gid], "/v1/tokens") == 403
        assert as_user(fiskd, 0, [], "/v1/tokens") == 200
