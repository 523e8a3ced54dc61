# SPDX-License-Identifier: Apache-2.0
"""libnbd with its own checks off against a real worker: what it lets through, we answer as we should."""

import json
import subprocess
from pathlib import Path

import pytest

from fisk_core.engine import Engine
from tests.disks import USUAL, make_pool, make_spec
from tests.engines import serving
from tests.servers import Served

SIZE = 8 << 20
PYTHON = "/usr/bin/python3"
"""the interpreter that libnbd's bindings are packaged for"""

PRELUDE = f"""
import errno, json, sys, nbd
SIZE = {SIZE}
def code(call, *args, **options):
    try:
        call(*args, **options)
    except nbd.Error as exc:
        return exc.errno
    return "ok"
def connect(*contexts):
    h = nbd.NBD()
    h.set_strict_mode(0)
    for context in contexts:
        h.add_meta_context(context)
    h.connect_uri(sys.argv[1])
    return h
results = {{}}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("l")
    with Served(make_spec(make_pool(folder / "pool"), SIZE, USUAL), folder) as served:
        yield served


def libnbd(uri: str, script: str):
    """Run a script with libnbd; gives what it put into ``results``."""
    if (
        not Path(PYTHON).exists()
        or subprocess.run([PYTHON, "-c", "import nbd"], capture_output=True).returncode
    ):
        pytest.skip("python3-libnbd is not installed")
    program = f"{PRELUDE}\n{script}\nprint(json.dumps(results))"
    done = subprocess.run([PYTHON, "-c", program, uri], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_illegal_matrix(served):
    found = libnbd(
        served.uri,
        """
h = connect("base:allocation")
buf = bytearray(512)
status = lambda *a: 0
ranges = {"end": (SIZE, 512), "over": (SIZE - 256, 512), "far": (2**63 - 512, 512)}
for name, (offset, count) in ranges.items():
    results[name] = [
        code(h.pread, count, offset), code(h.pwrite, bytes(count), offset), code(h.trim, count, offset),
        code(h.zero, count, offset), code(h.cache, count, offset),
        code(h.block_status, count, offset, status),
    ]
results["zero length"] = [
    code(h.pread, 0, 0), code(h.pwrite, b"", 0), code(h.trim, 0, 0), code(h.zero, 0, 0), code(h.cache, 0, 0),
]
results["unknown flags"] = [
    code(h.pread, 512, 0, flags=1 << 9), code(h.pwrite, buf, 0, flags=1 << 9), code(h.flush, flags=1 << 9),
    code(h.trim, 512, 0, flags=1 << 9), code(h.zero, 512, 0, flags=1 << 9),
    code(h.cache, 512, 0, flags=1 << 9),
    code(h.block_status, 512, 0, status, flags=1 << 9),
]
results["large"] = [code(h.pread, 33 << 20, 0), code(h.pread, (64 << 20), 0)]
results["alive"] = [len(h.pread(512, 0)), h.aio_is_ready()]
h.shutdown()
""",
    )
    past_end = ["EINVAL", "ENOSPC", "EINVAL", "ENOSPC", "EINVAL", "EINVAL"]
    assert found["end"] == found["over"] == found["far"] == past_end
    assert found["zero length"] == ["EINVAL"] * 5
    assert found["unknown flags"] == ["EINVAL"] * 7
    assert found["large"] == ["EINVAL"] * 2
    assert found["alive"] == [512, True]


def test_every_legal_combination(served):
    found = libnbd(
        served.uri,
        """
h = connect("base:allocation", "qemu:allocation-depth")
results["can"] = [
    h.can_multi_conn(), h.can_fua(), h.can_trim(), h.can_zero(), h.can_fast_zero(),
    h.can_cache(), h.can_flush(),
    h.can_df(), h.is_read_only(), h.is_rotational(), h.get_structured_replies_negotiated(),
]
results["size"] = [h.get_size(), h.get_block_size(0), h.get_block_size(1), h.get_block_size(2)]
h.pwrite(b"w" * 100000, 12345, flags=nbd.CMD_FLAG_FUA)
h.zero(50000, 20000, flags=nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
h.zero(4096, 69632, flags=nbd.CMD_FLAG_FAST_ZERO)
h.trim(4096, 73728, flags=nbd.CMD_FLAG_FUA)
h.cache(SIZE, 0)
data = bytes(h.pread(SIZE, 0, flags=nbd.CMD_FLAG_DF))
wanted = bytearray(SIZE)
wanted[12345:112345] = b"w" * 100000
wanted[20000:77824] = bytes(57824)
wanted[77824:112345] = b"w" * (112345 - 77824)
results["wrong"] = [at for at in range(SIZE) if data[at] != (0 if 20000 <= at < 77824 else wanted[at])][:5]
seen = []
def chunk(part, offset, status, error):
    seen.append((offset, len(part), status))
again = h.pread_structured(1 << 20, 0, chunk)
results["chunks"] = sorted(seen)
results["same"] = bytes(again) == data[: 1 << 20]
extents = {}
def status(name, offset, entries, error):
    extents[name] = entries
h.block_status(SIZE, 0, status)
results["extents"] = dict(extents)
h.block_status(SIZE, 0, status, flags=nbd.CMD_FLAG_REQ_ONE)
results["one"] = extents
h.shutdown()
""",
    )
    assert found["can"] == [True] * 8 + [False, False, True]
    assert found["size"] == [SIZE, 1, 4096, 32 << 20]
    assert found["wrong"] == []
    assert found["same"]
    covered = 0
    for offset, length, _ in found["chunks"]:
        assert offset == covered
        covered += length
    assert covered == 1 << 20
    assert {sum(entries[::2]) for entries in found["extents"].values()} == {SIZE}
    assert {len(entries) for entries in found["one"].values()} == {2}


def test_replies_out_of_order_and_sixteen_connections(served):
    found = libnbd(
        served.uri,
        """
handles = [connect() for _ in range(16)]
for number, h in enumerate(handles):
    h.pwrite(bytes([number]) * 65536, number * 65536)
handles[0].flush()
wrong = 0
for h in handles:
    buffers = [nbd.Buffer(65536) for _ in range(64)]
    cookies = [h.aio_pread(buf, (at % 16) * 65536) for at, buf in enumerate(buffers)]
    while h.aio_in_flight():
        h.poll(-1)
        for cookie in list(cookies):
            if h.aio_command_completed(cookie):
                cookies.remove(cookie)
    for at, buf in enumerate(buffers):
        wrong += bytes(buf.to_bytearray()) != bytes([at % 16]) * 65536
results["wrong"] = wrong
for h in handles:
    h.shutdown()
""",
    )
    assert found["wrong"] == 0


def test_list_and_info(served):
    found = libnbd(
        served.uri.replace("/test?", "/?"),
        """
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(sys.argv[1])
names = []
h.opt_list(lambda name, description: names.append(name) or 0)
results["names"] = names
contexts = []
h.opt_list_meta_context(lambda name: contexts.append(name) or 0)
results["contexts"] = contexts
h.set_export_name("other")
results["other"] = code(h.opt_info)
h.set_export_name("test")
h.opt_info()
results["size"] = h.get_size()
h.opt_abort()
""",
    )
    assert found == {
        "names": ["test"],
        "contexts": ["base:allocation", "qemu:allocation-depth"],
        "other": "ENOENT",
        "size": SIZE,
    }


def test_the_changes_since_another_fisk(home):
    with Engine.open(home) as engine:
        engine.create("volume", SIZE)
        with serving(engine, "volume") as (worker, client):
            client.write(0, b"o" * 65536)
            context = f"fisk:diff:{engine.snapshot('volume', 'old').id}"
            engine.settle()
            client.write(4096, b"n" * 4096)
            client.write(1 << 20, b"n")
            client.trim(16384, 8192)
            script = f"""
h = connect("{context}")
def status(name, offset, entries, error):
    results[name] = entries
h.block_status(SIZE, 0, status)
h.shutdown()
"""
            found = libnbd(worker.uri, script)
    rest = SIZE - (1 << 20) - 4096
    between = (1 << 20) - 24576
    wanted = [4096, 0, 4096, 1, 8192, 0, 8192, 3, between, 0, 4096, 1, rest, 0]
    assert found == {context: wanted}
