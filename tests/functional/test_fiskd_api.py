# SPDX-License-Identifier: Apache-2.0
"""The verbs through a real daemon's unix socket, and how it says that something is wrong."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest

from tests.fiskds import Fiskd, UnixConnection, running

MIB = 1 << 20


@pytest.fixture(scope="module")
def fiskd() -> Iterator[Fiskd]:
    with TemporaryDirectory(prefix="fisk-") as home, running(Path(home), api={"max_page": 50}) as started:
        yield started


def ask(fiskd: Fiskd, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Ask; gives status and what the JSON says."""
    sent = None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **headers}
    status, told, text = fiskd.request(method, f"/v1{path}", sent, given)
    if status >= 400:
        assert told["content-type"] == "application/problem+json", text
    return status, json.loads(text) if text else None


def make(fiskd: Fiskd, size: int = MIB, **more: Any) -> dict[str, Any]:
    status, fisk = ask(fiskd, "POST", "/fisks", {"name": f"f-{uuid4().hex}", "size": size, **more})
    assert status == 201, fisk
    assert isinstance(fisk, dict)
    return fisk


def test_a_fisk_lives_and_goes(fiskd):
    made = make(fiskd, attributes={"tenant": "a"})
    assert made["state"] == "live"
    assert made["created_at"].endswith("Z")
    assert ask(fiskd, "GET", f"/fisks/{made['name']}") == (200, made)
    status, changed = ask(fiskd, "PATCH", f"/fisks/{made['id']}", {"attributes": {"tenant": None, "b": "1"}})
    assert (status, changed["attributes"]) == (200, {"b": "1"})
    assert ask(fiskd, "POST", f"/fisks/{made['id']}/resize", {"size": 2 * MIB})[1]["size"] == 2 * MIB
    for _ in range(2):
        assert ask(fiskd, "DELETE", f"/fisks/{made['id']}") == (204, None)
    assert ask(fiskd, "GET", f"/fisks/{made['id']}")[0] == 404


def test_a_create_with_an_id_may_be_repeated(fiskd):
    fisk_id, name = str(uuid4()), f"again-{uuid4().hex}"
    new = {"name": name, "size": MIB, "id": fisk_id}
    first = ask(fiskd, "POST", "/fisks", new)
    assert first[0] == 201
    assert ask(fiskd, "POST", "/fisks", new) == first
    status, problem = ask(fiskd, "POST", "/fisks", {**new, "size": 2 * MIB})
    assert (status, problem["type"]) == (409, "urn:fisk:error:already-exists")


def test_snapshots_clones_and_going_back(fiskd):
    made = make(fiskd)
    status, shot = ask(fiskd, "POST", f"/fisks/{made['id']}/snapshots", {"name": f"s-{made['name']}"})
    assert (status, shot["state"], shot["parent_id"]) == (201, "frozen", made["id"])
    status, clones = ask(
        fiskd, "POST", f"/fisks/{shot['id']}/clones", {"name": f"c-{made['name']}", "count": 3}
    )
    assert status == 201
    assert [each["name"][-2:] for each in clones["fisks"]] == ["-1", "-2", "-3"]
    assert ask(fiskd, "POST", f"/fisks/{made['id']}/revert", {"to": shot["id"]})[0] == 200
    status, group = ask(
        fiskd,
        "POST",
        "/snapshots",
        {"snapshots": [{"fisk": each["id"], "name": f"g-{each['name']}"} for each in clones["fisks"][:2]]},
    )
    assert (status, len(group["fisks"])) == (201, 2)
    status, tree = ask(fiskd, "GET", f"/fisks/{made['id']}/tree")
    assert [(each["fisk"]["id"], each["depth"]) for each in tree["nodes"]][:2] == [
        (made["id"], 0),
        (shot["id"], 1),
    ]
    assert len(tree["nodes"]) == 7
    refs = [each["fisk"]["id"] for each in tree["nodes"]]
    assert ask(fiskd, "POST", "/deletions", {"refs": [*refs, str(uuid4())]}) == (204, None)


def test_a_list_comes_in_pages(fiskd):
    label = uuid4().hex
    names = [make(fiskd, attributes={"label": label})["name"] for _ in range(5)]
    seen, marker = [], ""
    while marker is not None:
        more = f"&marker={marker}" if marker else ""
        status, page = ask(fiskd, "GET", f"/fisks?attribute=label={label}&limit=2{more}")
        assert status == 200
        seen += [each["name"] for each in page["fisks"]]
        marker = page["next"]
    assert seen == names
    assert ask(fiskd, "GET", "/fisks?limit=51")[0] == 413
    assert ask(fiskd, "GET", f"/fisks?marker={uuid4()}")[0] == 404
    wanted = names[3]
    status, page = ask(fiskd, "GET", f"/fisks?name=*{wanted[4:]}&state=live&role=volume&pool=default")
    assert [each["name"] for each in page["fisks"]] == [wanted]


def test_looking(fiskd):
    made = make(fiskd)
    assert ask(fiskd, "GET", f"/fisks/{made['id']}/usage")[1]["provisioned"] == MIB
    assert ask(fiskd, "GET", f"/fisks/{made['id']}/route?offset=4096")[1]["layer_id"] is None
    other = make(fiskd)
    assert ask(fiskd, "GET", f"/fisks/{made['id']}/diff?to={other['id']}")[1] == {"extents": [], "next": None}
    assert ask(fiskd, "GET", "/tree")[0] == 200
    assert {pool["name"] for pool in ask(fiskd, "GET", "/pools")[1]["pools"]} == {"default"}
    assert ask(fiskd, "GET", "/pools/default")[1]["driver"] == "file"


def test_range_locks(fiskd):
    made = make(fiskd)
    path = f"/fisks/{made['id']}/locks"
    status, lock = ask(fiskd, "POST", path, {"offset": 0, "length": 10, "owner": "a"})
    assert status == 201
    assert ask(fiskd, "POST", path, {"offset": 5, "length": 10, "wait": 0.1})[0] == 409
    assert ask(fiskd, "GET", path)[1]["locks"][0]["id"] == lock["id"]
    assert ask(fiskd, "PUT", f"/locks/{lock['id']}", {"ttl": 60.0})[0] == 200
    assert ask(fiskd, "DELETE", f"/locks/{lock['id']}")[0] == 204
    assert ask(fiskd, "POST", path, {"offset": 5, "length": 10})[0] == 201


def test_schedules(fiskd):
    made = make(fiskd)
    new = {
        "fisk": made["id"],
        "interval": 3600,
        "retention": {"last": 3},
        "enabled": False,
        "id": str(uuid4()),
    }
    status, schedule = ask(fiskd, "POST", "/schedules", new)
    assert (status, schedule["retention"]["last"]) == (201, 3)
    path = f"/schedules/{schedule['id']}"
    assert ask(fiskd, "PATCH", path, {"interval": 7200})[1]["interval"] == 7200
    assert len(ask(fiskd, "GET", f"/schedules?fisk={made['id']}")[1]["schedules"]) == 1
    assert ask(fiskd, "GET", path)[1]["retention"]["last"] == 3
    for _ in range(2):
        assert ask(fiskd, "DELETE", path)[0] == 204


def test_a_job_is_done_and_told_of(fiskd):
    status, job = ask(fiskd, "POST", "/jobs", {"kind": "collect", "arguments": {"dry_run": True}})
    assert status == 201
    told = []
    for event in follow(fiskd, after=0):
        if event["data"].get("job") == job["id"]:
            told.append(event["kind"])
            if event["kind"] == "job.done":
                break
    assert told[0] == "job.queued"
    assert ask(fiskd, "GET", f"/jobs/{job['id']}")[1]["state"] == "done"
    assert job["id"] in {each["id"] for each in ask(fiskd, "GET", "/jobs?state=done")[1]["jobs"]}
    assert ask(fiskd, "DELETE", f"/jobs/{job['id']}")[1]["state"] == "done"
    forbidden = {"kind": "import", "arguments": {"source": "/etc/hostname", "name": "x"}}
    assert ask(fiskd, "POST", "/jobs", forbidden)[0] == 403


def follow(fiskd: Fiskd, after: int | None = None, **headers: str) -> Iterator[dict[str, Any]]:
    """Give events from the stream as they come."""
    connection = UnixConnection(fiskd.socket)
    try:
        query = "" if after is None else f"?after={after}"
        connection.request("GET", f"/v1/events{query}", headers=headers)
        answer = connection.getresponse()
        assert answer.getheader("content-type").startswith("text/event-stream")
        number = None
        for line in answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                number = int(value)
            elif name == "data":
                event = json.loads(value)
                assert event["num"] == number
                yield event
    finally:
        connection.close()


def test_events_go_on_where_a_stream_broke_off(fiskd):
    names = [make(fiskd)["id"] for _ in range(3)]
    created = list(islice(follow_created(fiskd, names, 0), 3))
    assert [event["fisk_id"] for event in created] == names
    again = follow(fiskd, **{"Last-Event-ID": str(created[0]["num"])})
    assert next(event for event in again if event["kind"] == "fisk.created")["fisk_id"] == names[1]


def follow_created(fiskd: Fiskd, ids: list[str], after: int) -> Iterator[dict[str, Any]]:
    return (e for e in follow(fiskd, after) if e["kind"] == "fisk.created" and e["fisk_id"] in ids)


def test_an_event_comes_while_it_is_waited_for(fiskd):
    connection = UnixConnection(fiskd.socket)
    try:
        connection.request("GET", "/v1/events")
        answer = connection.getresponse()
        assert answer.readline() == b": fisk\n"  # from here on nothing is missed, unless it came before this
        made = make(fiskd)
        for line in answer:
            if made["id"].encode() in line:
                break
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("GET", "/v1/nothing", None, 404, "not-found"),
        ("GET", "/v1/fisks/absent", None, 404, "not-found"),
        ("PUT", "/v1/fisks", b"{}", 405, "unsupported"),
        ("POST", "/v1/fisks", b"{", 400, "invalid-value"),
        ("POST", "/v1/fisks", b"[]", 400, "invalid-value"),
        ("POST", "/v1/fisks", b'{"name": "x", "size": "512"}', 400, "invalid-value"),
        ("POST", "/v1/fisks", b'{"name": "x", "size": 512, "colour": 1}', 400, "invalid-value"),
        ("POST", "/v1/fisks", b'{"name": "x", "size": 513}', 400, "invalid-value"),
        ("POST", "/v1/fisks", b'{"name": "' + b"x" * 256 + b'", "size": 512}', 400, "invalid-value"),
        ("POST", "/v1/jobs", b'{"kind": "dance"}', 400, "invalid-value"),
        ("POST", "/v1/jobs", b'{"kind": "scrub", "arguments": {"refs": ["\\ud800"]}}', 400, "invalid-value"),
        ("POST", "/v1/jobs", b'{"kind": "scrub", "arguments": {"refs": NaN}}', 400, "invalid-value"),
        ("GET", "/v1/fisks?nome=x", None, 400, "invalid-value"),
        ("GET", "/v1/fisks?role=a&role=b", None, 400, "invalid-value"),
        ("GET", "/v1/attachments/" + "0" * 36, None, 400, "invalid-value"),
    ],
)
def test_problems_are_documents(fiskd, method, path, body, status, kind):
    headers = {"Content-Type": "application/json", "X-Request-Id": "mine.1"}
    got, told, text = fiskd.request(method, path, body, headers)
    problem = json.loads(text)
    assert (got, problem["status"]) == (status, status), problem
    assert told["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:fisk:error:{kind}"
    assert told["x-request-id"] == problem["instance"] == "mine.1"
    assert problem["title"]
    assert problem["detail"]


def test_the_id_of_a_request_is_in_its_lines_of_the_log(fiskd):
    fiskd.request("GET", "/v1/fisks/absent", headers={"X-Request-Id": "look-for-me"})
    _, told, _ = fiskd.request("GET", "/v1", headers={"X-Request-Id": "not an id"})
    assert told["x-request-id"].startswith("req-")
    lines = [line for line in fiskd.log.splitlines() if "[look-for-me]" in line]
    assert any("GET /v1/fisks/absent 404" in line for line in lines)


def test_what_the_daemon_is(fiskd):
    status, about = ask(fiskd, "GET", "")
    assert status == 200
    assert about["role"] == "admin"
    assert about["limits"]["max_page"] == 50
    status, document = ask(fiskd, "GET", "/openapi.json")
    assert document["openapi"].startswith("3.")


def test_figures(fiskd):
    status, told, text = fiskd.request("GET", "/metrics")
    assert status == 200
    assert told["content-type"].startswith("text/plain")
    assert b'fisk_pool_free_bytes{pool="default"}' in text
    assert b"fisk_build" in text


def test_health(fiskd, tmp_path):
    status, _, text = fiskd.request("GET", "/healthz")
    assert (status, json.loads(text)) == (200, {"healthy": True, "problems": []})
