# SPDX-License-Identifier: Apache-2.0
"""One home, many processes: nothing is lost, made twice or left behind, also when processes are killed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fisk_core.engine import Engine
from fisk_core.errors import InUse
from tests.engines import BLOCK, MIB, make_volume, paths_in, read, write


def start(home: Path, code: str, *arguments: str) -> "subprocess.Popen[str]":
    """Run ``code`` in a process that has opened ``engine``; it says 'ready' first."""
    prologue = (
        "import sys, pathlib\n"
        "from fisk_core.engine import Engine\n"
        "from fisk_core.errors import *\n"
        "engine = Engine.open(pathlib.Path(sys.argv[1]))\n"
        "arguments = sys.argv[2:]\n"
        "print('ready', flush=True)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", prologue + code + "\nengine.close()", str(home), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(processes):
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output


def test_first_use_by_many_at_once(tmp_path):
    finish([start(tmp_path, "engine.create(arguments[0], 1 << 20)", f"v{n}") for n in range(5)])
    with Engine.open(tmp_path) as engine:
        assert sorted(fisk.name for fisk in engine.list()) == [f"v{n}" for n in range(5)]
        assert len(engine.pools()) == 1
        assert engine.check().problems == []


def test_clones_of_one_live_fisk_from_many_processes(tmp_path):
    with Engine.open(tmp_path) as engine:
        make_volume(engine, content=b"content")
    code = "for n in range(15): engine.clone('volume', f'{arguments[0]}-{n}')"
    finish([start(tmp_path, code, f"c{n}") for n in range(4)])
    with Engine.open(tmp_path) as engine:
        assert len(engine.list()) == 61
        assert {read(engine, fisk.name, 0, 7) for fisk in engine.list()} == {b"content"}
        assert engine.check().problems == []


def test_only_one_gets_a_name(tmp_path):
    with Engine.open(tmp_path) as engine:
        make_volume(engine, content=b"content")
    code = (
        "won = 0\n"
        "for n in range(20):\n"
        "    try: engine.snapshot('volume', f's{n}'); won += 1\n"
        "    except AlreadyExists: pass\n"
        "print(won)"
    )
    processes = [start(tmp_path, code) for _ in range(3)]
    won = [int(process.communicate(timeout=60)[0].split()[-1]) for process in processes]
    assert sum(won) == 20
    with Engine.open(tmp_path) as engine:
        assert len(engine.list(role="snapshot")) == 20
        assert engine.check().problems == []


def test_snapshots_between_the_writes_of_another_process(tmp_path):
    """A plain writer cannot be asked to let go: either it writes or the snapshot is taken, never both."""
    with Engine.open(tmp_path) as engine:
        make_volume(engine)
    code = (
        "done = 0\n"
        "while done < 60:\n"
        "    try: disk = engine.open_disk('volume', writable=True)\n"
        "    except InUse: continue\n"
        "    done += 1\n"
        "    with disk:\n"
        "        disk.write(0, done.to_bytes(8, 'big')); disk.write(51200, done.to_bytes(8, 'big'))\n"
    )
    process = start(tmp_path, code)
    taken = refused = 0
    with Engine.open(tmp_path) as engine:
        while process.poll() is None:
            try:
                engine.snapshot("volume", f"s{taken}")
            except InUse:
                refused += 1
            else:
                taken += 1
        finish([process])
        values = []
        for number in range(taken):
            first = read(engine, f"s{number}", 0, 8)
            assert first == read(engine, f"s{number}", 51200, 8)
            values.append(int.from_bytes(first, "big"))
        assert values == sorted(values)
        assert taken > 0
        engine.settle()
        assert engine.check().problems == []


def test_a_lock_ends_with_the_process_that_was_killed(tmp_path):
    with Engine.open(tmp_path) as engine:
        make_volume(engine, content=b"content")
        code = "disk = engine.open_disk('volume', writable=True); print('open', flush=True); sys.stdin.read()"
        process = start(tmp_path, "import time\n" + code.replace("sys.stdin.read()", "time.sleep(60)"))
        assert process.stdout is not None
        while process.stdout.readline().strip() != "open":
            pass
        with pytest.raises(InUse):
            engine.snapshot("volume", "snap")
        process.kill()
        process.communicate()
        engine.snapshot("volume", "snap")
        assert read(engine, "snap", 0, 7) == b"content"


def test_an_import_that_was_killed_is_cleaned_up_by_the_next(tmp_path):
    code = (
        "import time\n"
        "building = engine.begin_build('image', size=1 << 20)\n"
        "building.disk.write(0, b'half'); building.disk.flush()\n"
        "print('building', flush=True); time.sleep(60)"
    )
    process = start(tmp_path, code)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "building":
        pass
    with Engine.open(tmp_path) as engine:
        with pytest.raises(Exception, match="already"):
            engine.begin_build("image", size=MIB)
        process.kill()
        process.communicate()
        with engine.begin_build("image", size=MIB) as building:
            building.disk.write(0, b"whole")
            building.finish(size=MIB, frozen=True)
        assert read(engine, "image", 0, 5) == b"whole"
        engine.settle()
        assert engine.check().problems == []
        assert len(paths_in(engine.home.pool("default"), "layers")) == 1


CHAOS = """
import random
seed = random.Random(int(arguments[0]))
for n in range(10000):
    name = f"{arguments[0]}-{n}"
    try:
        names = [fisk.name for fisk in engine.list()]
        ref = seed.choice(names)
        action = seed.randrange(7)
        if action == 0: engine.snapshot(ref, name)
        elif action == 1: engine.clone(ref, name, count=seed.choice([1, 3]))
        elif action == 2 and len(names) > 12: engine.delete(ref)
        elif action == 3: engine.revert(ref, seed.choice(names))
        elif action == 4: engine.resize(ref, seed.choice([512 * 40, 512 * 2048]), shrink=True)
        elif action == 5: engine.settle()
        else:
            with engine.open_disk(ref, writable=True) as disk:
                disk.write(512 * seed.randrange(38), name.encode())
    except (NotFound, AlreadyExists, InUse, ReadOnly, InvalidValue):
        pass
"""


def test_processes_killed_in_the_middle_of_everything(tmp_path):
    """Whatever they were doing, the catalog and the pool agree afterwards, and what was kept is as it was."""
    with Engine.open(tmp_path) as engine:
        make_volume(engine, "keep", content=bytes(range(256)) * 8)
        kept = engine.snapshot("keep", "kept")
        for number in range(6):
            make_volume(engine, f"v{number}", content=b"x" * number * BLOCK)
    seed = random.Random(7)
    for round_ in range(4):
        processes = [start(tmp_path, CHAOS, str(round_ * 10 + n)) for n in range(3)]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        time.sleep(0.6 + seed.random() * 0.6)
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        with Engine.open(tmp_path) as engine:
            assert engine.check().errors == []
    with Engine.open(tmp_path) as engine:
        engine.check(repair=True)
        assert engine.check().problems == []
        for fisk in engine.list():
            if fisk.id == kept.id:
                assert read(engine, fisk.name, 0, 2048) == bytes(range(256)) * 8
            read(engine, fisk.name, 0, min(fisk.size, MIB))
        engine.delete(*[fisk.name for fisk in engine.list()])
        assert engine.check().problems == []
        pool = engine.home.pool("default")
        assert [paths_in(pool, folder) for folder in ("layers", "logs", "blobs")] == [[], [], []]


def test_writes_flushed_by_a_process_that_was_killed(tmp_path):
    with Engine.open(tmp_path) as engine:
        make_volume(engine)
        code = (
            "import time\n"
            "with engine.open_disk('volume', writable=True) as disk:\n"
            "    disk.write(0, b'flushed'); disk.flush(); disk.write(512, b'perhaps')\n"
            "    print('flushed', flush=True); time.sleep(60)"
        )
        process = start(tmp_path, code)
        assert process.stdout is not None
        while process.stdout.readline().strip() != "flushed":
            pass
        process.kill()
        process.communicate()
        engine.snapshot("volume", "snap")
        write(engine, "volume", 1024, b"after")
        assert read(engine, "snap", 0, 7) == b"flushed"
        assert read(engine, "snap", BLOCK, 7) in (b"perhaps", bytes(7))
