# SPDX-License-Identifier: Apache-2.0
"""What the long proofs judge with can fail: wrong bytes, lost files, descriptors and memory are noticed."""

import random
from collections import Counter

import pytest

from fisk_core.dataplane import protocol as p
from fisk_core.dataplane.client_transmission import Pending
from proof.core import ProofFailed
from proof.filesystems.fsx import Fsx
from proof.filesystems.population import Durable, content, verify
from proof.soak import judging
from proof.soak.clients import BLOCK, Client, Share, stamp_in
from proof.soak.clients import content as stamped
from proof.soak.soak import Result
from proof.soak.watch import Process

MIB = 1 << 20


@pytest.fixture
def fsx(tmp_path):
    file = Fsx(tmp_path / "file", 256 << 10, random.Random(4), resizable=True)
    yield file
    file.close()


def test_fsx_agrees_with_a_file_system(fsx):
    while fsx.counts.total() < 400:
        fsx.one()
    fsx.compare()
    assert fsx.counts["write"] > 50
    assert fsx.counts["truncate"]


@pytest.mark.parametrize("harm", ["byte", "longer", "shorter"])
def test_fsx_notices_what_it_did_not_write(fsx, harm):
    fsx.append()
    with fsx.path.open("r+b") as file:
        if harm == "byte":
            file.seek(len(fsx.model) // 2)
            file.write(bytes([fsx.model[len(fsx.model) // 2] ^ 1]))
        else:
            file.truncate(len(fsx.model) + (1 if harm == "longer" else -1))
    with pytest.raises(ProofFailed, match="before that"):
        fsx.compare()


def test_durable_files_are_compared(tmp_path):
    (tmp_path / "f1").write_bytes(content("f1", 0))
    (tmp_path / "r1").write_bytes(content("r1", 3))
    before, after = Durable({"f1"}, {"r1": 2}), Durable({"f1"}, {"r1": 4})
    assert verify(tmp_path, before, set(), after) == (2, [])
    newer = Durable(set(), {"r1": 4})
    assert verify(tmp_path, newer, set(), newer)[1] == ["r1 is none of its versions 4 to 5"]
    (tmp_path / "f1").write_bytes(content("f1", 0)[:-1])
    assert verify(tmp_path, before, set(), after)[1] == ["f1 was durable and is not what was written"]
    assert verify(tmp_path, before, {"f1"}, after)[1] == []
    (tmp_path / "r1").unlink()
    assert len(verify(tmp_path, before, set(), after)[1]) == 2


def answered(client, block, data=b"", stamp=None, error=None):
    pending = Pending(None, p.CMD_READ if stamp is None else p.CMD_WRITE, block * BLOCK, BLOCK)
    pending.done, pending.error, pending.buffer = True, error, memoryview(data)
    client._judge(block, stamp, pending)


def test_a_client_of_the_soak_knows_what_it_may_read():
    client = Client(Share("", 0, 4, 1), random.Random(1))
    answered(client, 0, bytes(BLOCK))
    answered(client, 0, stamp=7)
    answered(client, 0, stamped(7, 0))
    client.known[0].append(8)  # its reply was lost
    answered(client, 0, stamped(8, 0))
    assert client.problems == []
    answered(client, 0, stamped(7, 0))
    assert "holds 0x7, and may hold 0x8" in client.problems.pop()
    answered(client, 1, stamped(8, 0))
    assert "no stamp" in client.problems.pop()
    answered(client, 0, bytes(BLOCK))
    assert "holds 0x0" in client.problems.pop()
    assert stamp_in(stamped(5, 2)[:-1] + b"x", 2) is None


def process(role, resident=10 * MIB, pid=1, deleted=(), **descriptors):
    return Process(role, pid, resident, Counter(descriptors), list(deleted))


def test_descriptors_that_were_not_there_before_are_leaks():
    result = Result(before=[process("worker", socket=3), process("fiskd", socket=5)])
    result.after = [process("worker", socket=3), process("fiskd", socket=4), process("reader", socket=9)]
    assert judging.leaked(result) == {}
    result.after = [process("worker", socket=4), process("fiskd", socket=5, pipe=1, deleted=["/layers/x"])]
    assert judging.leaked(result) == {
        "socket of worker": 1,
        "pipe of fiskd": 1,
        "deleted /layers/x of fiskd": 1,
    }


def test_memory_that_grows_is_noticed():
    def watched(percent_an_hour):
        samples = [
            (60.0 * minute, [process("fiskd", int(100 * MIB * (1 + percent_an_hour / 100 * minute / 60)))])
            for minute in range(180)
        ]
        return judging.hourly_growth(Result(samples=samples))

    assert watched(0) == 0
    assert 4.5 < watched(5) < 5.0
    assert judging.hourly_growth(Result(samples=[(0.0, [process("fiskd")])])) is None
    assert judging.grown(Result(before=[process("fiskd")], after=[process("fiskd", 15 * MIB)])) == 5 * MIB
