# SPDX-License-Identifier: Apache-2.0
"""The clients people use, against a real worker: libnbd's tools, QEMU's, fio with verification."""

import json
import os
import subprocess

import pytest

from fisk_core.engine import Engine
from tests.disks import USUAL, make_pool, make_spec
from tests.engines import serving
from tests.nbd_servers import need
from tests.servers import Served

SIZE = 64 << 20
MIB = 1 << 20


def run(*command, cwd=None):
    need(command[0])
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=cwd)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def served(tmp_path):
    with Served(make_spec(make_pool(tmp_path / "pool"), SIZE, USUAL), tmp_path) as served:
        yield served


@pytest.fixture
def image(tmp_path):
    """A sparse file: data, holes, single blocks, zeros that are written."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.write(os.urandom(3 * MIB + 5000))
        for offset in range(8 * MIB, 9 * MIB, 3 * 4096):
            file.seek(offset)
            file.write(os.urandom(4096))
        file.seek(20 * MIB)
        file.write(bytes(MIB) + os.urandom(100))
        file.seek(SIZE - 512)
        file.write(b"e" * 512)
    return path


def test_nbdinfo(served):
    info = json.loads(run("nbdinfo", "--json", served.uri))
    assert info["protocol"] == "newstyle-fixed"
    assert not info["TLS"]
    [export] = info["exports"]
    assert (export["export-name"], export["export-size"]) == ("test", SIZE)
    for able in ("multi_conn", "flush", "fua", "trim", "zero", "fast_zero", "cache", "df"):
        assert export[f"can_{able}"], able
    assert not export["is_read_only"]
    assert export["block_size_maximum"] == 32 << 20
    assert export["contexts"] == ["base:allocation", "qemu:allocation-depth"]
    listed = json.loads(run("nbdinfo", "--list", "--json", f"nbd+unix:///?socket={served.path}"))
    assert [each["export-name"] for each in listed["exports"]] == ["test"]


def extents(uri, context):
    return [
        (each["offset"], each["length"], each["type"])
        for each in json.loads(run("nbdinfo", f"--map={context}", "--json", uri))
    ]


def test_maps(tmp_path):
    """Allocation, depth and changes of a Fisk written in three periods."""
    with Engine.open(tmp_path) as engine:
        engine.create("volume", SIZE)
        with serving(engine, "volume") as (worker, client):
            client.write(0, b"1" * MIB)
            first = engine.snapshot("volume", "s1")
            engine.settle()
            client.write(4096, b"2" * 4096)
            engine.snapshot("volume", "s2")
            client.write(12288, b"3" * 4096)
            client.trim(MIB // 2, MIB // 2)
            half = MIB // 2
            assert extents(worker.uri, "base:allocation") == [(0, half, 0), (half, SIZE - half, 3)]
            assert extents(worker.uri, "qemu:allocation-depth") == [
                (0, 4096, 3), (4096, 4096, 2), (8192, 4096, 3), (12288, 4096, 1), (16384, half - 16384, 3),
                (half, SIZE - half, 0),
            ]  # fmt: skip
            assert extents(worker.uri, f"fisk:diff:{first.id}") == [
                (0, 4096, 0), (4096, 4096, 1), (8192, 4096, 0), (12288, 4096, 1), (16384, half - 16384, 0),
                (half, half, 3), (MIB, SIZE - MIB, 0),
            ]  # fmt: skip


def test_nbdcopy_both_ways(served, image, tmp_path):
    run("nbdcopy", "--connections=8", "--requests=32", "--flush", str(image), served.uri)
    run("nbdcopy", "--connections=4", "--synchronous", served.uri, str(tmp_path / "back"))
    run("cmp", str(image), str(tmp_path / "back"))
    run(
        "nbdcopy",
        "--connections=4",
        "--allocated",
        "--request-size=1048576",
        served.uri,
        str(tmp_path / "again"),
    )
    run("cmp", str(image), str(tmp_path / "again"))
    assert (tmp_path / "back").stat().st_blocks * 512 < 8 * MIB
    # What the image has as a hole takes no space here either.
    assert sum(length for _, length, kind in extents(served.uri, "base:allocation") if not kind) < 8 * MIB


def test_qemu_img(served, image, tmp_path):
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-m", "16", "-W", str(image), served.uri)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), served.uri)
    run("qemu-img", "convert", "-O", "qcow2", served.uri, str(tmp_path / "out.qcow2"))
    run("qemu-img", "compare", str(tmp_path / "out.qcow2"), served.uri)
    mapped = json.loads(run("qemu-img", "map", "--output=json", served.uri))
    assert sum(each["length"] for each in mapped) == SIZE
    assert 3 * MIB < sum(each["length"] for each in mapped if each["data"]) < 8 * MIB
    assert json.loads(run("qemu-img", "info", "--output=json", served.uri))["virtual-size"] == SIZE


def test_qemu_io(served):
    def io(*commands):
        out = run(
            "qemu-io", "-f", "raw", *(part for command in commands for part in ("-c", command)), served.uri
        )
        assert "verification failed" not in out
        assert "failed" not in out, out

    io("write -P 0xaa 0 1M", "write -P 0xbb 1000 3000", "write -z 64k 64k", "write -z -u 200k 100k", "flush")
    io("discard 512k 256k", "aio_write -P 0xcc 2M 1M", "aio_flush", "write -f -P 0xdd 3M 512", "flush")
    io("read -P 0xaa 0 1000", "read -P 0xbb 1000 3000", "read -P 0xaa 4000 61536", "read -P 0 64k 64k")
    io("read -P 0 200k 100k", "read -P 0 512k 256k", "read -P 0xcc 2M 1M", "read -P 0xdd 3M 512")


def test_blkverify(served, tmp_path):
    """QEMU does everything here and on a file, and compares every read."""
    raw = tmp_path / "raw"
    with raw.open("wb") as file:
        file.truncate(SIZE)
    commands = []  # (none writes zeros: QEMU's blkverify fails an assertion of its own then)
    for number in range(120):
        offset, length = number * 7919 % 4000 * 512, (number % 40 + 1) * 512
        kind = ("write", "aio_write", "write -f")[number % 3]
        commands += [f"{kind} -P {number + 1} {offset} {length}", "aio_flush", f"read {offset} 64k"]
    commands += ["aio_flush", "read 0 4M"]
    parts = [part for command in commands for part in ("-c", command)]
    files = f"raw.driver=raw,raw.file.driver=file,raw.file.filename={raw}"
    server = "test.driver=raw,test.file.driver=nbd,test.file.export=test,test.file.server.type=unix"
    out = run(
        "qemu-io",
        *parts,
        "--image-opts",
        f"driver=blkverify,{files},{server},test.file.server.path={served.path}",
    )
    assert "failed" not in out


def fio(served, tmp_path, *arguments):
    text = run(
        "fio", "--name=job", "--ioengine=nbd", f"--uri={served.uri}", "--size=32M", "--output-format=json",
        "--verify_fatal=1", *arguments, cwd=tmp_path,
    )  # fmt: skip
    [job] = json.loads(text[text.index("{") :])["jobs"]
    assert job["error"] == 0
    return job


@pytest.mark.parametrize("mode", ["randwrite", "write", "randrw"])
def test_fio_verifies_what_it_wrote(served, tmp_path, mode):
    job = fio(
        served, tmp_path, f"--rw={mode}", "--bsrange=512-128k", "--blockalign=512", "--iodepth=32",
        "--verify=crc32c", "--verify_async=1", "--verify_backlog=256", "--do_verify=1", "--randseed=7",
    )  # fmt: skip
    assert job["read"]["total_ios"] > 100
    assert job["write"]["total_ios"] > 100


def test_fio_trims_and_writes(served, tmp_path):
    job = fio(
        served, tmp_path, "--rw=randtrimwrite", "--bs=4k", "--iodepth=16", "--fsync=64", "--size=8M"
    )  # fmt: skip
    assert job["trim"]["total_ios"] > 100


def test_fio_verifies_the_state_it_left_when_the_worker_was_killed(served, tmp_path):
    options = (
        "--bs=4k", "--iodepth=8", "--verify=crc32c", "--fsync=1", "--size=4M", "--randseed=3",
        "--verify_state_save=1",
    )  # fmt: skip
    fio(served, tmp_path, "--rw=randwrite", "--do_verify=0", "--number_ios=500", *options)
    served.kill()
    served.start()
    job = fio(
        served,
        tmp_path,
        "--rw=randwrite",
        "--verify_only=1",
        "--verify_state_load=1",
        "--number_ios=500",
        *options,
    )
    assert job["read"]["total_ios"] > 100


def test_two_fio_jobs_on_connections_of_their_own(served, tmp_path):
    need("fio")
    jobs = tmp_path / "jobs"
    common = f"[global]\nioengine=nbd\nuri={served.uri}\nrw=randrw\nbs=8k\niodepth=16\nsize=8M\n"
    jobs.write_text(
        common
        + "verify=crc32c\nverify_backlog=64\n"
        + "".join(f"[j{n}]\noffset={n * 8}M\n" for n in range(4))
    )
    run("fio", str(jobs), cwd=tmp_path)
