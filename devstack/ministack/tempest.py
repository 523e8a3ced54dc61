# SPDX-License-Identifier: Apache-2.0
"""Tempest and Cinder's plugin for it, against the cloud that runs.

Results of every run are added to ``tempest/results.json`` of the place, so that a long run can be made in
parts: test → ``[status, seconds, reason]``.  A class that skips or fails as a whole has one entry,
``setUpClass (CLASS)``.
"""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import subunit
from openstack.connection import Connection
from testtools import StreamToDict

from devstack.ministack import configuration, furniture, image
from devstack.ministack.backends import BACKENDS
from devstack.ministack.errors import MinistackError
from devstack.ministack.identity import connect
from devstack.ministack.place import PORTS, Place

LISTS = Path(__file__).parent / "tests"
OTHER_IMAGE = "tiny-raw"
_CONCURRENCY = 2
_LOOP = """\
[DEFAULT]
test_path={tempest}/test_discover
top_dir={top}
group_regex=([^\\.]*\\.)*
"""


class Tempest:
    """The tests of a place; its directory is also that of stestr, which keeps the runs."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.directory = place.directory / "tempest"
        self.results = self.directory / "results.json"
        self._runs = self.directory / "runs"

    def run(self, wanted: Sequence[str], concurrency: int = _CONCURRENCY) -> int:
        """Run ``smoke``, ``all`` or what matches one of the regular expressions; gives 1 if a test failed.

        Raises MinistackError.
        """
        self._prepare()
        with self._files():
            code = subprocess.call(self._command(wanted, concurrency), cwd=self.directory)
        found = self.collect()
        if not found:
            raise MinistackError(f"no test ran; see {self.directory}")
        with self._runs.open("a") as runs:
            runs.write(" ".join(wanted or ["all"]) + "\n")
        for name, (status, _, reason) in sorted(found.items()):
            if status == "fail":
                print(f"FAILED {name}: {reason}")
        counts = {kind: sum(one[0] == kind for one in found.values()) for kind in ("success", "skip", "fail")}
        print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
        return int(bool(code or counts["fail"]))

    def listed(self, wanted: Sequence[str]) -> list[str]:
        """Give the names of the tests that ``run`` would run."""
        self._prepare()
        command = [*self._command(wanted, 1), "--list-tests"]
        said = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, check=True).stdout
        return [line for line in said.splitlines() if "." in line and " " not in line]

    def collect(self) -> dict[str, list[Any]]:
        """Give the results of the last run and add them to those of the runs before."""
        stestr = self.place.venv / "bin" / "stestr"
        stream = subprocess.run(
            [stestr, "last", "--subunit"], cwd=self.directory, capture_output=True, check=False
        ).stdout
        found = {result[0]: [*result[1:]] for result in _read(stream)}
        known = json.loads(self.results.read_text()) if self.results.exists() else {}
        for name in found:  # that a class could be set up is not a result of its own
            known.pop(f"setUpClass ({name.rpartition('.')[0]})", None)
        self.results.write_text(json.dumps({**known, **found}, indent=1, sort_keys=True))
        return found

    @property
    def runs(self) -> list[str]:
        """What was asked for in each of the runs whose results there are."""
        return self._runs.read_text().splitlines() if self._runs.exists() else []

    def _command(self, wanted: Sequence[str], concurrency: int) -> list[str | Path]:
        known = LISTS / f"{wanted[0] if wanted else 'all'}.txt"
        chosen: list[str | Path] = ["--include-list", known]
        if not known.exists():
            chosen = ["--regex", "|".join(wanted)]
        program = self.place.venv / "bin" / "tempest"
        config = ["--config-file", self.place.etc / "tempest.conf"]
        (self.directory / "excluded.txt").write_text("".join(f"{one} # {why}\n" for one, why in excluded()))
        excluding = ["--exclude-list", self.directory / "excluded.txt"]
        return [program, "run", *config, "--concurrency", str(concurrency), *chosen, *excluding]

    def _prepare(self) -> None:
        """Write the configuration, from what the cloud says of itself."""
        self.directory.mkdir(exist_ok=True)
        packages = next((self.place.venv / "lib").glob("python3*")) / "site-packages"
        (self.directory / ".stestr.conf").write_text(_LOOP.format(tempest=packages / "tempest", top=packages))
        values = of_cloud(connect(self.place), self.place)
        configuration.write_one(self.place, "tempest.conf.j2", "tempest.conf", values)

    @contextlib.contextmanager
    def _files(self) -> Iterator[None]:
        """Serve the images over HTTP, for those that Glance is to fetch."""
        words = ["-m", "http.server", "--bind", "127.0.0.1", "--directory", self.place.images]
        with (self.place.log / "files.out").open("ab") as log:
            server = subprocess.Popen([sys.executable, *words, str(PORTS["files"])], stdout=log, stderr=log)
        try:
            yield
        finally:
            server.terminate()
            server.wait()


def listing(name: str) -> list[str]:
    """Give the lines of a list of tests, without comments."""
    lines = (LISTS / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def excluded() -> list[tuple[str, str]]:
    """Give the regular expressions of tests that are not run, and why."""
    pairs = [line.partition(" # ") for line in listing("excluded")]
    found = [(pattern.strip(), reason.strip()) for pattern, _, reason in pairs]
    if "device-mapper" not in Path("/proc/misc").read_text():
        needs = "luksv2|cinder_volumes_cryptsetup"
        found.append(
            (needs, "the kernel of the machine has no device mapper, which LUKS 2 and dm-crypt need")
        )
    return found


def of_cloud(cloud: Connection, place: Place) -> dict[str, object]:
    """Give what the tests have to know of the cloud: images, what the storage calls itself, its back ends."""
    furniture.give_image(place, cloud, OTHER_IMAGE, "raw")
    pools = [pool.capabilities for pool in cloud.block_storage.backend_pools()]
    if not pools:
        raise MinistackError("cinder-volume has not told of its pools")
    first = BACKENDS[place.backend].volume_type
    others = sorted({pool["volume_backend_name"] for pool in pools} - {first})
    return {
        "image": cloud.image.find_image(image.NAME).id,
        "other_image": cloud.image.find_image(OTHER_IMAGE).id,
        "images": place.images,
        "protocol": pools[0]["storage_protocol"],
        "vendor": pools[0]["vendor_name"],
        "groups": str(bool(pools[0].get("consistent_group_snapshot_enabled"))).lower(),
        "volume_type": first,
        "second": others[0] if others else "",
    }


def _read(stream: bytes) -> Iterator[tuple[str, str, float, str]]:
    """Give name, status (success, skip, fail), seconds and reason of every test of a subunit stream."""
    found: list[dict[str, Any]] = []
    reader = StreamToDict(found.append)
    reader.startTestRun()
    subunit.ByteStreamToStreamResult(io.BytesIO(stream), non_subunit_name="stdout").run(reader)
    reader.stopTestRun()
    for test in found:
        status = {"xfail": "fail", "inprogress": "fail", "uxsuccess": "fail"}.get(
            test["status"], test["status"]
        )
        if test["status"] == "exists" or test["id"] == "stdout":
            continue
        start, end = test["timestamps"]
        seconds = (end - start).total_seconds() if start and end else 0.0
        name = test["id"].partition("[")[0]
        yield name, status, round(seconds, 1), _reason(status, test["details"])


def _reason(status: str, details: dict[str, Any]) -> str:
    """Give why a test was skipped, or the last line of what made it fail."""
    if status == "skip":
        return details["reason"].as_text() if "reason" in details else ""
    if status == "success":
        return ""
    texts = [details[name].as_text().strip() for name in sorted(details) if "traceback" in name]
    return " | ".join(text.splitlines()[-1] for text in texts if text)[:500]
