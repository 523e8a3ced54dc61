# SPDX-License-Identifier: Apache-2.0
"""The machine of random histories, driven through a worker process over NBD.

Snapshots, reverts and growth go through the control socket; the worker is killed and started again at any
moment.  What was flushed is there then; any other block holds a value that it was given since.
"""

from dataclasses import asdict, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from fisk_core.dataplane.zygote import Zygote
from tests.disks import make_spec
from tests.property.test_disk_machine import SIZE, DiskMachine
from tests.servers import Forked

BLOCK = 512


@pytest.fixture(scope="module", autouse=True)
def zygote():
    with Zygote() as started:
        NbdMachine.zygote = started
        yield


class NbdDisk:
    """What the machine wants of a disk, by one client of a worker."""

    def __init__(self, spec, folder, zygote):
        self.served = Forked(spec, folder, zygote)
        self.changed, self.flushed = [], True
        self.restart()

    def restart(self):
        self.served.start()
        self.client = self.served.connect(depth=4)

    def kill(self):
        self.served.kill()
        self.client.close()

    @property
    def spec(self):
        return self.served.spec

    @property
    def size(self):
        return self.client.size

    def read(self, offset, length):
        return self.client.read(offset, length)

    def write(self, offset, data):
        self.client.write(offset, data)
        self.changed.append((offset, len(data)))

    def write_zeroes(self, offset, length, allocate=False):
        self.client.zero(offset, length, no_hole=allocate)
        self.changed.append((offset, length))

    def trim(self, offset, length):
        self.client.trim(offset, length)
        self.changed.append((offset, length))

    def flush(self):
        self.client.flush()
        self.flushed = True

    def switch(self, spec):
        self.served.control("switch", spec=asdict(spec))
        self.served.spec = spec
        self.flushed = True

    def resize(self, size):
        self.served.control("resize", size=size)
        self.served.spec = replace(self.spec, size=size)
        self.client.close()
        self.client = self.served.connect(depth=4)

    def close(self):
        self.client.close()
        self.served.stop()


class NbdMachine(DiskMachine):
    zygote = None

    def __init__(self):
        super().__init__()
        self.durable, self.since = b"", {}

    def open(self, spec):
        return NbdDisk(spec, self.root, self.zygote)

    def begin_period(self, spec):
        self.disk.switch(spec)

    @invariant()
    def note_what_blocks_may_hold(self):
        """Runs after every rule: what a flush covered, and the values that blocks were given since."""
        if not hasattr(self, "disk"):
            return
        disk = self.disk
        changed, disk.changed = disk.changed, []
        for offset, length in changed:
            for block in range(offset // BLOCK, -(-(offset + length) // BLOCK)):
                self.since.setdefault(block, []).append(self.block(self.model, block))
        if disk.flushed:
            disk.flushed, self.durable, self.since = False, bytes(self.model), {}

    def block(self, content, number):
        return bytes(content[number * BLOCK : (number + 1) * BLOCK])

    @rule(size=st.integers(SIZE // 2, SIZE * 2))
    def resize(self, size):
        DiskMachine.resize(self, size)
        self.disk.flush()

    @rule()
    def kill(self):
        self.disk.kill()
        self.disk.restart()
        found = self.disk.read(0, self.disk.size)
        for number, given in self.since.items():
            assert self.block(found, number) in [self.block(self.durable, number), *given]
            start = number * BLOCK
            self.model[start : start + BLOCK] = self.block(found, number)
        assert found == self.model
        # What is found is durable: some of it was found in the page cache only.
        self.disk.flush()

    @precondition(lambda self: self.frozen)
    @rule(data=st.data())
    def revert_while_it_is_served(self, data):
        spec, content = data.draw(st.sampled_from(self.frozen))
        if spec.size != self.disk.size:
            return
        self.disk.switch(replace(make_spec(self.pool, spec.size, base=spec.map_id)))
        self.model = bytearray(content)

    @rule(first=st.integers(0, 3000), count=st.integers(1, 40))
    def pipelined_writes(self, first, count):
        """Many single blocks at once."""
        items = []
        for number in range(count):
            offset = (first * 7 + number * 3) % (len(self.model) // BLOCK - 1) * BLOCK
            data = self.fill(BLOCK)
            items.append((offset, data))
            self.model[offset : offset + BLOCK] = data
            self.since.setdefault(offset // BLOCK, []).append(data)
        self.disk.client.write_many(items)


TestNbd = NbdMachine.TestCase
TestNbd.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
