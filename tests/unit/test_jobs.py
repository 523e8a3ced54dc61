# SPDX-License-Identifier: Apache-2.0
"""Jobs: run in order, watched, cancelled, begun again after a restart."""

import os
import threading
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from fisk_core.catalog import jobs as rows
from fisk_core.errors import AlreadyExists, Forbidden, InUse, InvalidValue, NotFound, Overloaded, Unsupported
from fisk_core.jobs import KINDS, Runner, runner, task
from fisk_core.jobs.kinds import Kind, _nothing
from fisk_core.jobs.problem import document, error_of
from fisk_core.model import JobState
from fisk_core.services import events
from tests.engines import MIB, make_volume, paths_in, read

SECONDS = 30


@contextmanager
def running(engine, *directories, **options):
    with stopping(Runner(engine, "here", directories=directories, **options)) as jobs:
        jobs.start()
        yield jobs


@contextmanager
def stopping(jobs):
    try:
        yield jobs
    finally:
        jobs.stop()


@pytest.fixture
def folder(home):
    path = home / "exchange"
    path.mkdir()
    return path


@pytest.fixture
def gate(monkeypatch):
    """A kind of job that waits, and says how far it is, until told to go."""

    class Gate:
        def __init__(self):
            self.open, self.entered, self.runs = threading.Event(), threading.Event(), 0

        def run(self, work):
            self.runs += 1
            self.entered.set()
            while not self.open.wait(0.005):
                work.progress(work.done + 1, 1000)
            return {"label": work.arguments.get("label")}

    made = Gate()
    monkeypatch.setitem(KINDS, "gate", Kind({"label": str}, (), _nothing, made.run))
    return made


def kinds_of(engine):
    return [event.kind for event in events.read(engine, 0) if event.kind.startswith("job.")]


# Running


def test_a_job_is_done_and_its_result_is_there(engine):
    make_volume(engine, content=b"x" * 5000)
    with running(engine) as jobs:
        job = jobs.wait(jobs.submit("scrub", {}).id, SECONDS)
    assert (job.state, job.error) == (JobState.DONE, None)
    assert job.result["bytes_read"] >= 5000
    assert job.done == job.total
    assert kinds_of(engine) == ["job.queued", "job.done"]


@pytest.mark.parametrize(("kind", "arguments"), [("check", {"repair": True}), ("collect", {"dry_run": True})])
def test_reports_are_results(engine, kind, arguments):
    with running(engine) as jobs:
        job = jobs.wait(jobs.submit(kind, arguments).id, SECONDS)
    assert job.state is JobState.DONE
    assert isinstance(job.result, dict)


def test_rescan(engine):
    make_volume(engine, content=b"x")
    with running(engine) as jobs:
        failed = jobs.wait(jobs.submit("rescan", {"pool": "default"}).id, SECONDS)
        done = jobs.wait(jobs.submit("rescan", {"pool": "default", "force": True}).id, SECONDS)
    assert failed.state is JobState.FAILED
    assert failed.error["type"] == "urn:fisk:error:already-exists"
    assert failed.error["status"] == 409
    assert isinstance(error_of(failed.error), AlreadyExists)
    assert done.result["fisks"] == []


def test_rescan_of_a_lost_pool_is_a_path_like_any_other(engine, home, folder):
    jobs = Runner(engine, "here", directories=[folder])
    engine.create_pool("known", options={"path": str(folder / "pool")})
    for arguments, error in (
        ({"options": {"path": str(home / "elsewhere")}}, Forbidden),
        ({"options": {"path": str(folder / "pool"), "more": "x"}}, Unsupported),
        ({"driver": "other"}, Unsupported),
    ):
        with pytest.raises(error):
            jobs.submit("rescan", {"pool": "lost", **arguments})
    with pytest.raises(InvalidValue):
        jobs.submit("rescan", {"pool": "../lost"})
    assert jobs.submit("rescan", {"pool": "lost", "options": {"path": str(folder / "pool")}})


def test_jobs_are_taken_in_order_and_no_more_at_once_than_allowed(engine, gate):
    with running(engine, concurrency=1) as jobs:
        ids = [jobs.submit("gate", {"label": str(number)}).id for number in range(3)]
        assert gate.entered.wait(SECONDS)
        assert [jobs.get(each).state for each in ids[1:]] == [JobState.QUEUED] * 2
        gate.open.set()
        assert [jobs.wait(each, SECONDS).result["label"] for each in ids] == ["0", "1", "2"]
    ended = [event.data["job"] for event in events.read(engine, 0) if event.kind == "job.done"]
    assert ended == ids


def test_too_many_are_refused(engine):
    jobs = Runner(engine, "here", max_queued=2)
    for _ in range(2):
        jobs.submit("check", {})
    with pytest.raises(Overloaded, match="2 jobs are waiting"):
        jobs.submit("check", {})


def test_progress_is_seen_by_others(engine, gate, monkeypatch):
    monkeypatch.setattr(task, "PERSIST_SECONDS", 0.0)
    with running(engine) as jobs:
        job = jobs.submit("gate", {})
        for event in events.follow(engine, 0):
            if event.kind == "job.progress":
                break
        assert (event.data["job"], event.data["total"]) == (job.id, 1000)
        assert jobs.get(job.id).done > 0
        gate.open.set()
        assert jobs.wait(job.id, SECONDS).state is JobState.DONE


def test_a_bug_fails_the_job_and_not_the_runner(engine, monkeypatch, expect_logs):
    def broken(_):
        raise KeyError("oops")

    expect_logs("failed in a way that nobody expected")
    monkeypatch.setitem(KINDS, "broken", Kind({}, (), _nothing, broken))
    with running(engine, concurrency=1) as jobs:
        bad, good = jobs.submit("broken", {}), jobs.submit("check", {})
        assert jobs.wait(bad.id, SECONDS).error["status"] == 500
        assert jobs.wait(good.id, SECONDS).state is JobState.DONE


def test_a_second_runner_of_a_home_is_refused(engine, monkeypatch):
    monkeypatch.setattr(runner, "_LOCK_SECONDS", 0.0)
    with running(engine), pytest.raises(InUse):
        Runner(engine, "here").start()


def test_finished_jobs_are_forgotten_after_a_week(engine):
    with running(engine) as jobs:
        job = jobs.wait(jobs.submit("check", {}).id, SECONDS)
        old = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=8)
        with engine.catalog.change() as conn:
            conn.execute(rows.jobs.update().values(updated_at=old))
        jobs.wait(jobs.submit("check", {}).id, SECONDS)
        jobs._forget_old()
        with pytest.raises(NotFound):
            jobs.get(job.id)
        assert len(jobs.list(state="done")) == 1


# What is submitted


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("dance", {}),
        ("check", {"repair": 1}),
        ("check", {"mend": True}),
        ("import", {"name": "x"}),
        ("import", {"name": "x", "source": "relative"}),
        ("import", {"name": "x", "source": "/nul\0"}),
        ("import", {"name": "x", "source": "/lone\ud800"}),
        ("import", {"name": "x", "source": "/x", "attributes": {"a": 1}}),
        ("scrub", {"refs": [5]}),
        ("import", {"name": "bad name", "source": "/x"}),
        ("import", {"name": "x", "source": "/x", "block_size": True}),
    ],
)
def test_bad_arguments(engine, kind, arguments):
    with pytest.raises(InvalidValue):
        Runner(engine, "here").submit(kind, arguments)
    assert kinds_of(engine) == []


def test_unknown_fisks_are_refused_at_once(engine, folder):
    jobs = Runner(engine, "here", directories=[folder])
    with pytest.raises(NotFound):
        jobs.submit("scrub", {"refs": ["nobody"]})
    with pytest.raises(NotFound):
        jobs.submit("download", {"ref": "nobody", "target": str(folder / "x")})


def test_the_same_id_is_the_same_job(engine):
    jobs, job_id = Runner(engine, "here"), str(uuid.uuid4())
    first = jobs.submit("check", {"repair": False}, id=job_id)
    assert jobs.submit("check", {"repair": False}, id=job_id) == first
    with pytest.raises(AlreadyExists):
        jobs.submit("check", {"repair": True}, id=job_id)
    with pytest.raises(AlreadyExists):
        jobs.submit("collect", {}, id=job_id)
    assert jobs.list() == [first]


# Cancelling


def test_cancel_a_queued_job(engine):
    jobs = Runner(engine, "here")
    job = jobs.cancel(jobs.submit("check", {}).id)
    assert job.state is JobState.CANCELLED
    assert jobs.cancel(job.id) == job
    with stopping(jobs):
        jobs.start()
        jobs.wait(jobs.submit("collect", {}).id, SECONDS)
    assert jobs.get(job.id).state is JobState.CANCELLED


def test_cancel_a_running_job(engine, gate):
    with running(engine) as jobs:
        job = jobs.submit("gate", {})
        assert gate.entered.wait(SECONDS)
        jobs.cancel(job.id)
        assert jobs.wait(job.id, SECONDS).state is JobState.CANCELLED
    assert kinds_of(engine)[-1] == "job.cancelled"


def test_another_hosts_wish_to_cancel_is_seen(engine, gate, monkeypatch):
    monkeypatch.setattr(task, "PERSIST_SECONDS", 0.0)
    with running(engine) as jobs:
        job = jobs.submit("gate", {})
        assert gate.entered.wait(SECONDS)
        Runner(engine, "there").cancel(job.id)
        assert jobs.wait(job.id, SECONDS).state is JobState.CANCELLED


def test_a_cancelled_import_leaves_nothing(engine, folder, monkeypatch):
    (folder / "image").write_bytes(os.urandom(4 * MIB))
    jobs = Runner(engine, "here", directories=[folder])
    monkeypatch.setattr(task, "PERSIST_SECONDS", 0.0)
    calls = []

    def cancel_soon(work, done, total):
        calls.append(done)
        if len(calls) == 3:
            jobs.cancel(work.job.id)

    monkeypatch.setattr(task.Task, "_persist", cancel_soon)
    with stopping(jobs):
        jobs.start()
        job = jobs.wait(jobs.submit("import", {"source": str(folder / "image"), "name": "x"}).id, SECONDS)
    assert job.state is JobState.CANCELLED
    assert engine.list() == []
    assert paths_in(engine.home.pool("default"), "layers") == []
    assert engine.check().problems == []


# Paths


def test_import_and_download(engine, folder):
    content = os.urandom(MIB)
    (folder / "image").write_bytes(content)
    with running(engine, folder) as jobs:
        made = jobs.wait(jobs.submit("import", {"source": str(folder / "image"), "name": "x"}).id, SECONDS)
        for target, options in (("raw", {}), ("qcow2", {"format": "qcow2"})):
            order = {"ref": "x", "target": str(folder / target), **options}
            job = jobs.wait(jobs.submit("download", order).id, SECONDS)
            assert job.error is None
            assert job.result == {"path": str(folder / target), "bytes": (folder / target).stat().st_size}
        again = jobs.wait(jobs.submit("download", order).id, SECONDS)
        over = jobs.wait(jobs.submit("download", {**order, "overwrite": True}).id, SECONDS)
    assert made.result == {"fisk": engine.get("x").id}
    assert (folder / "raw").read_bytes() == content
    assert (folder / "qcow2").read_bytes()[:4] == b"QFI\xfb"
    assert again.error["type"] == "urn:fisk:error:already-exists"
    assert over.state is JobState.DONE
    assert sorted(path.name for path in folder.iterdir()) == ["image", "qcow2", "raw"]


def test_paths_are_refused_where_none_are_allowed(engine, folder):
    (folder / "image").write_bytes(b"x" * 512)
    with pytest.raises(Forbidden):
        Runner(engine, "here").submit("import", {"source": str(folder / "image"), "name": "x"})


@pytest.mark.parametrize(
    ("path", "error"), [("x" * 300, InvalidValue), ("image/x", InvalidValue), ("nothing", NotFound)]
)
def test_paths_that_cannot_be(engine, folder, path, error):
    (folder / "image").write_bytes(b"x" * 512)
    with pytest.raises(error):
        Runner(engine, "here", directories=[folder]).submit(
            "import", {"source": f"{folder}/{path}", "name": "x"}
        )


def test_nobody_learns_what_is_elsewhere(engine, home, folder):
    jobs = Runner(engine, "here", directories=[folder])
    for path in (home / "nothing", home / "run"):
        with pytest.raises(Forbidden):
            jobs.submit("import", {"source": str(path), "name": "x"})


@pytest.mark.parametrize("path", ["../secret", "link", "linked/secret", "sub/../../secret"])
def test_paths_that_lead_out_are_refused(engine, home, folder, path):
    (home / "secret").write_bytes(b"x" * 512)
    (folder / "sub").mkdir()
    (folder / "link").symlink_to(home / "secret")
    (folder / "linked").symlink_to(home)
    jobs = Runner(engine, "here", directories=[folder])
    make_volume(engine)
    with pytest.raises(Forbidden):
        jobs.submit("import", {"source": f"{folder}/{path}", "name": "x"})
    if path != "link":  # a download replaces a link, it does not follow it
        with pytest.raises(Forbidden):
            jobs.submit("download", {"ref": "volume", "target": f"{folder}/{path}"})


def test_a_path_that_turns_bad_before_the_job_runs(engine, home, folder):
    """What is judged is what is opened, when it is opened."""
    (home / "secret").write_bytes(b"x" * 512)
    (folder / "image").write_bytes(b"x" * 512)
    jobs = Runner(engine, "here", directories=[folder])
    job = jobs.submit("import", {"source": str(folder / "image"), "name": "x"})
    (folder / "image").unlink()
    (folder / "image").symlink_to(home / "secret")
    with stopping(jobs):
        jobs.start()
        assert jobs.wait(job.id, SECONDS).error["type"] == "urn:fisk:error:forbidden"


def test_a_directory_that_is_a_link_itself_may_be_allowed(engine, home, folder):
    (home / "alias").symlink_to(folder)
    (folder / "image").write_bytes(b"x" * 512)
    with running(engine, home / "alias") as jobs:
        job = jobs.submit("import", {"source": str(home / "alias" / "image"), "name": "x"})
        assert jobs.wait(job.id, SECONDS).state is JobState.DONE


def test_only_regular_files_are_imported(engine, folder):
    os.mkfifo(folder / "pipe")
    jobs = Runner(engine, "here", directories=[folder])
    for name in ("pipe", "."):
        with pytest.raises(InvalidValue):
            jobs.submit("import", {"source": f"{folder}/{name}", "name": "x"})


def test_a_download_replaces_a_link_and_does_not_follow_it(engine, home, folder):
    (home / "precious").write_bytes(b"keep")
    (folder / "link").symlink_to(home / "precious")
    make_volume(engine, content=b"new")
    with running(engine, folder) as jobs:
        order = {"ref": "volume", "target": str(folder / "link"), "overwrite": True}
        assert jobs.wait(jobs.submit("download", order).id, SECONDS).state is JobState.DONE
    assert (home / "precious").read_bytes() == b"keep"
    assert (folder / "link").read_bytes()[:3] == b"new"


# Restart


def test_a_running_job_begins_again_after_a_stop(engine, gate):
    with running(engine) as jobs:
        job = jobs.submit("gate", {"label": "x"})
        assert gate.entered.wait(SECONDS)
    assert jobs.get(job.id).state is JobState.RUNNING
    gate.open.set()
    with running(engine) as jobs:
        assert jobs.wait(job.id, SECONDS).result == {"label": "x"}
    assert gate.runs == 2


def test_an_import_that_was_cut_off(engine, folder):
    """The half-built Fisk of the dead process is swept, the image imported with the id it was given."""
    (folder / "image").write_bytes(b"x" * 4096)
    jobs = Runner(engine, "here", directories=[folder])
    job = jobs.submit("import", {"source": str(folder / "image"), "name": "x"})
    half = engine.begin_build("x", size=MIB, id=job.arguments["id"])
    half.disk.close()
    half._lock.release()  # as the end of its process does
    with stopping(jobs):
        jobs.start()
        assert jobs.wait(job.id, SECONDS).result == {"fisk": job.arguments["id"]}
    assert read(engine, "x", 0, 4096) == b"x" * 4096
    assert engine.check().problems == []


def test_an_import_that_was_finished_before_its_job(engine, folder):
    (folder / "image").write_bytes(b"x" * 4096)
    jobs = Runner(engine, "here", directories=[folder])
    job = jobs.submit("import", {"source": str(folder / "image"), "name": "x", "keep_original": True})
    engine.import_image(folder / "image", "x", id=job.arguments["id"], keep_original=True)
    original = engine.get("x.original").id
    engine.delete("x.original")  # as if the process had died just before it
    with stopping(jobs):
        jobs.start()
        done = jobs.wait(job.id, SECONDS)
    assert done.result == {"fisk": job.arguments["id"], "original": original}
    assert engine.get("x.original").attributes["fisk:image"] == job.arguments["id"]


def test_a_download_that_was_finished_before_its_job(engine, folder):
    make_volume(engine, content=b"x")
    jobs, target = Runner(engine, "here", directories=[folder]), folder / "file"
    job = jobs.submit("download", {"ref": "volume", "target": str(target)})
    (folder / f".fisk-{job.id}.part").write_bytes(b"left by a run before")
    target.write_bytes(b"finished")
    found = target.stat()
    with engine.catalog.change() as conn:
        rows.change(conn, job.id, state="running", result=[found.st_dev, found.st_ino])
    with stopping(jobs):
        jobs.start()
        assert jobs.wait(job.id, SECONDS).result == {"path": str(target), "bytes": 8}
    assert os.listdir(folder) == ["file"]


def test_problem_documents():
    assert document(NotFound("there is no Fisk 'x'")) == {
        "type": "urn:fisk:error:not-found",
        "title": "There is no such Fisk, pool, layer or file",
        "status": 404,
        "detail": "there is no Fisk 'x'",
    }
