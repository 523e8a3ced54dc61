# SPDX-License-Identifier: Apache-2.0
"""Random histories of a disk against a model that is obviously right: a bytearray.

Writes, zeros and trims of any alignment, flushes, reopening with and without a crash, snapshots, clones,
consolidation, resizing.  Snapshots must never change.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fisk_core.blockmap import LogHeader, consolidate, create_log, verify_blob
from fisk_core.dataplane.disk import Disk
from fisk_core.pools import create_pool
from tests.disks import TINY, frozen, make_spec, new_id

SIZE = 3 * 2048 * 1024 // 2 + 700  # one and a half segments, and a last block cut short
HOT = [0, 2048, 2 << 20, SIZE - 1500]  # borders of pages and segments, where things go wrong


def ranges():
    """Offsets near the interesting borders, lengths from a byte to some pages."""
    near = st.builds(
        lambda base, delta: max(0, min(SIZE - 1, base + delta)),
        st.sampled_from(HOT),
        st.integers(-3000, 3000),
    )
    return st.tuples(near, st.one_of(st.integers(1, 700), st.sampled_from([512, 1024, 2048, 6000, 20000])))


class DiskMachine(RuleBasedStateMachine):
    options: ClassVar[dict[str, str]] = {}
    """of the pool"""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="fisk-test-"))
        self.pool = create_pool("file", "pool", {"path": str(self.root / "pool"), **self.options})
        self.frozen = []
        self.counter = 0

    # What a machine that drives the disk by other means does differently

    def open(self, spec):
        return Disk.open(self.pool, spec)

    def begin_period(self, spec):
        seal = self.disk.begin_period(spec)
        seal.run()
        self.disk.end_flush(seal, None)
        seal.period.log.close()

    @initialize()
    def begin(self):
        self.disk = self.open(make_spec(self.pool, SIZE))
        self.model = bytearray(SIZE)

    def fill(self, length):
        self.counter += 1
        return (self.counter.to_bytes(4, "little") * (length // 4 + 1))[:length]

    @rule(where=ranges())
    def write(self, where):
        offset, length = where[0], min(where[1], self.disk.size - where[0])
        if length > 0:
            data = self.fill(length)
            self.disk.write(offset, data)
            self.model[offset : offset + length] = data

    @rule(where=ranges(), allocate=st.booleans())
    def write_zeroes(self, where, allocate):
        offset, length = where[0], min(where[1], self.disk.size - where[0])
        if length > 0:
            self.disk.write_zeroes(offset, length, allocate=allocate)
            self.model[offset : offset + length] = bytes(length)

    @rule(where=ranges())
    def trim(self, where):
        offset, length = where[0], min(where[1], self.disk.size - where[0])
        if length <= 0:
            return
        self.disk.trim(offset, length)
        start, end = -(-offset // 512) * 512, (offset + length) // 512 * 512
        if offset + length == self.disk.size:
            end = self.disk.size
        if end > start:
            self.model[start:end] = bytes(end - start)

    @rule(where=ranges())
    def read(self, where):
        offset, length = where[0], min(where[1], self.disk.size - where[0])
        if length > 0:
            assert self.disk.read(offset, length) == self.model[offset : offset + length]

    @rule()
    def flush(self):
        self.disk.flush()

    @rule()
    def reopen(self):
        spec = self.disk.spec
        self.disk.close()
        self.disk = self.open(replace(spec, size=len(self.model)))

    @rule()
    def snapshot(self):
        old = self.disk.spec
        spec = replace(old, map_id=new_id(), size=self.disk.size)
        create_log(self.pool, LogHeader(spec.map_id, old.map_id, old.fisk_id, self.disk.size, TINY))
        self.begin_period(spec)
        self.frozen.append((replace(frozen(old), size=self.disk.size), bytes(self.model)))

    @precondition(lambda self: self.frozen)
    @rule(data=st.data())
    def consolidate(self, data):
        spec, _ = data.draw(st.sampled_from(self.frozen))
        consolidate(self.pool, spec.map_id, spec.size)
        verify_blob(self.pool, spec.map_id)

    @precondition(lambda self: self.frozen)
    @rule(data=st.data())
    def go_on_from_a_snapshot(self, data):
        """Revert, or a clone that takes the disk's place: a new period on an old map."""
        spec, content = data.draw(st.sampled_from(self.frozen))
        self.disk.close()
        self.disk = self.open(make_spec(self.pool, spec.size, base=spec.map_id))
        self.model = bytearray(content)

    @rule(size=st.integers(SIZE // 2, SIZE * 2))
    def resize(self, size):
        if size >= self.disk.size:
            self.disk.resize(size)
            self.model.extend(bytes(size - len(self.model)))
            return
        self.disk.close()
        self.disk = self.open(make_spec(self.pool, size, base=self.disk.spec.map_id, base_size=size))
        del self.model[size:]
        # The rest of the last block must read as zeros once it is seen again.
        tail = -size % 512
        self.disk.resize(size + tail)
        if tail:
            self.disk.write_zeroes(size, tail)
        self.model.extend(bytes(tail))

    @invariant()
    def reads_as_the_model(self):
        if hasattr(self, "disk"):
            assert self.disk.size == len(self.model)
            for offset in HOT:
                at = max(0, min(offset, self.disk.size) - 2048)
                length = min(4096, self.disk.size - at)
                assert self.disk.read(at, length) == self.model[at : at + length]

    def teardown(self):
        try:
            if hasattr(self, "disk"):
                assert self.disk.read(0, self.disk.size) == self.model
                self.disk.close()
                for spec, content in self.frozen:
                    with Disk.open(self.pool, spec) as disk:
                        assert disk.read(0, disk.size) == content
        finally:
            shutil.rmtree(self.root)


class CheckedMachine(DiskMachine):
    """The same where every block is compared with its checksum."""

    options: ClassVar[dict[str, str]] = {"checksum": "crc32"}


TestChecked = CheckedMachine.TestCase
TestChecked.settings = settings(
    max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestDisk = DiskMachine.TestCase
TestDisk.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
