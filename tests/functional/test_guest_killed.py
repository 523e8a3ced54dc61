# SPDX-License-Identifier: Apache-2.0
"""A guest in QEMU writes and verifies its disk while what serves it is killed, again and again."""

import random
import time

import pytest

from fisk_core.client import RemoteEngine
from fisk_core.engine import Engine
from tests.engines import MIB
from tests.fiskds import running
from tests.guests import guest, kill_worker


@pytest.mark.timeout(600)
def test_a_guest_sees_nothing_of_what_dies_below_it(home, tmp_path):
    chance = random.Random(29)
    with running(home) as fiskd, RemoteEngine.open(fiskd.url) as client:
        client.create("disk", 4 * MIB)
        with guest(tmp_path, client.attach("disk")) as machine:
            machine.get_through(1)
            for turn, victims in enumerate(["worker", "fiskd", "both", "worker"]):
                time.sleep(chance.random())
                if victims != "fiskd":
                    kill_worker(client)
                if victims != "worker":
                    fiskd.kill()
                    time.sleep(chance.random())
                    fiskd.restart()
                machine.get_through(1)
                client.snapshot("disk", f"disk@{turn}")
                machine.get_through(1)
            assert client.upgrade() == 1
            machine.get_through(1)
        for attachment in client.attachments():
            client.detach(attachment.id)
    with Engine.open(home) as engine:
        assert engine.check().problems == []
