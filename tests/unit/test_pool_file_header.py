# SPDX-License-Identifier: Apache-2.0
"""Making and opening file pools: what is refused, and that a refusal changes nothing."""

import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from fisk_core import errors
from fisk_core.pools import Kind
from fisk_core.pools.file import FilePool


def tree(path: Path) -> list[tuple[str, bytes]]:
    """Give all that is below ``path``, names and contents."""
    return sorted((str(found), found.read_bytes() if found.is_file() else b"") for found in path.rglob("*"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool"


@pytest.fixture
def header(path: Path) -> dict[str, Any]:
    """The header of a pool at ``path``; ``rewrite`` puts a changed one there."""
    FilePool.create("test", {"path": path, "checksum": "crc32"})
    fields: dict[str, Any] = json.loads((path / "pool.json").read_bytes())
    body = json.dumps({key: value for key, value in fields.items() if key != "crc32"}, sort_keys=True)
    assert fields.pop("crc32") == f"{zlib.crc32(body.encode()):08x}"
    return fields


def rewrite(path: Path, fields: Mapping[str, Any]) -> None:
    (path / "pool.json").write_text(json.dumps(fields))


def test_header_has_the_documented_fields(header: dict[str, Any]) -> None:
    assert UUID(header.pop("id")).version == 4
    assert header.pop("created").endswith("Z")
    assert header == {
        "format": 1,
        "name": "test",
        "incompatible": [],
        "options": {"checksum": "crc32", "prealloc": True, "classes": ""},
    }


def test_pool_is_made_with_the_directories_above_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    pool = FilePool.create("test", {"path": str(path)})
    assert sorted(os.listdir(path)) == ["blobs", "layers", "logs", "pool.json", "staging", "sums"]
    assert FilePool.open("other name", {"path": str(path)}).id == pool.id
    assert path.stat().st_mode & 0o077 == 0


def test_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pool = FilePool.create("test", {"path": "here/../pool"})
    assert pool.options["path"] == str(tmp_path / "pool")


def test_recorded_options_hold_when_only_the_path_is_given(path: Path) -> None:
    FilePool.create("test", {"path": path, "checksum": "crc32", "prealloc": "no"})
    assert FilePool.open("test", {"path": path}).options == {
        "path": str(path),
        "checksum": "crc32",
        "prealloc": False,
        "classes": "",
    }
    assert FilePool.open("test", {"path": path, "prealloc": True}).options["prealloc"] is True


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"path": ""},
        {"path": None},
        {"path": b"/bytes"},
        {"path": "/nul\0"},
        {"path": "POOL", "checksum": "md5"},
        {"path": "POOL", "prealloc": "maybe"},
        {"path": "POOL", "classes": "scratch,gold"},
        {"path": "POOL", "compress": "zstd"},
    ],
)
def test_options_that_make_no_sense_are_refused(path: Path, options: dict[str, Any]) -> None:
    options = {key: str(path) if value == "POOL" else value for key, value in options.items()}
    for verb in (FilePool.create, FilePool.open):
        with pytest.raises(errors.InvalidValue):
            verb("test", options)
    assert not path.exists()


def test_a_directory_with_other_things_is_refused_unchanged(path: Path) -> None:
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "file").write_bytes(b"precious")
    (path / ".hidden.tmp").write_bytes(b"also")
    before = tree(path)
    with pytest.raises(errors.InvalidValue, match="not empty"):
        FilePool.create("test", {"path": path})
    assert tree(path) == before


def test_a_pool_is_not_made_twice(path: Path, header: dict[str, Any]) -> None:
    before = tree(path)
    with pytest.raises(errors.AlreadyExists, match=str(path)):
        FilePool.create("again", {"path": path})
    assert tree(path) == before


@pytest.mark.parametrize("where", ["", "below"])
def test_a_file_is_no_place_for_a_pool(path: Path, where: str) -> None:
    path.write_bytes(b"precious")
    for verb in (FilePool.create, FilePool.open):
        with pytest.raises(errors.InvalidValue, match="not a directory"):
            verb("test", {"path": path / where})
    assert path.read_bytes() == b"precious"


def test_a_fresh_file_system_and_an_interrupted_creation_count_as_empty(path: Path) -> None:
    (path / "lost+found").mkdir(parents=True)
    (path / ".0123456789abcdef.tmp").write_bytes(b'{"format":')
    pool = FilePool.create("test", {"path": path})
    assert pool.sweep_staging() == 1
    assert not (path / ".0123456789abcdef.tmp").exists()


def test_folders_a_crash_left_out_are_made_on_opening(path: Path, header: dict[str, Any]) -> None:
    for folder in ("blobs", "layers", "logs", "staging"):
        (path / folder).rmdir()
    pool = FilePool.open("test", {"path": path})
    pool.put_blob(f"maps/{uuid4()}", [b"x"])
    pool.create_device(Kind.LOG, str(uuid4())).close()


def test_of_concurrent_makers_one_wins(tmp_path: Path) -> None:
    def make(path: Path) -> str:
        try:
            return FilePool.create("test", {"path": path}).id
        except errors.AlreadyExists:
            return ""

    with ThreadPoolExecutor(8) as executor:
        for number in range(20):
            path = tmp_path / "above" / str(number)
            [made] = filter(None, executor.map(make, [path] * 8))
            assert FilePool.open("test", {"path": path}).id == made


def test_what_is_no_pool_is_not_found_and_says_why(tmp_path: Path, path: Path) -> None:
    with pytest.raises(errors.NotFound, match="no such directory"):
        FilePool.open("test", {"path": path})
    path.mkdir()
    with pytest.raises(errors.NotFound, match=r"no pool\.json"):
        FilePool.open("test", {"path": path})
    assert tree(tmp_path) == [(str(path), b"")]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[]", b'"x"', b'{"format": "1"}', b'{"format": 1}']
)
def test_damaged_header_is_reported_as_such(path: Path, header: dict[str, Any], data: bytes) -> None:
    (path / "pool.json").write_bytes(data)
    with pytest.raises(errors.Corrupt, match=r"pool\.json"):
        FilePool.open("test", {"path": path})


@pytest.mark.parametrize("field", ["id", "incompatible", "options"])
@pytest.mark.parametrize("value", [None, 5, "text"])
def test_header_with_a_wrong_field_is_damaged(
    path: Path, header: dict[str, Any], field: str, value: object
) -> None:
    rewrite(path, {**header, field: value})
    with pytest.raises(errors.Corrupt):
        FilePool.open("test", {"path": path})


def test_newer_formats_and_unknown_features_are_refused(path: Path, header: dict[str, Any]) -> None:
    rewrite(path, {**header, "format": 2})
    with pytest.raises(errors.Unsupported, match="format 2"):
        FilePool.open("test", {"path": path})
    rewrite(path, {**header, "incompatible": ["erasure-coding"]})
    with pytest.raises(errors.Unsupported, match="erasure-coding"):
        FilePool.open("test", {"path": path})


def test_unknown_compatible_fields_are_ignored(path: Path, header: dict[str, Any]) -> None:
    rewrite(path, {**header, "colour": "blue", "options": {**header["options"], "shade": 5}})
    assert FilePool.open("test", {"path": path}).options["checksum"] == "crc32"


def test_header_is_not_followed_elsewhere(path: Path, tmp_path: Path, header: dict[str, Any]) -> None:
    (path / "pool.json").rename(tmp_path / "elsewhere.json")
    (path / "pool.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(errors.PoolError, match=str(path)):
        FilePool.open("test", {"path": path})


def test_a_pool_that_is_not_mounted_any_more_is_not_begun_anew(path: Path, tmp_path: Path) -> None:
    pool = FilePool.create("test", {"path": path})
    path.rename(tmp_path / "unmounted")
    path.mkdir()
    for use in (
        lambda: pool.create_device(Kind.LAYER, str(uuid4())),
        lambda: pool.put_blob(f"maps/{uuid4()}", [b"x"]),
        lambda: list(pool.list_devices(Kind.LAYER)),
        lambda: list(pool.list_blobs()),
    ):
        with pytest.raises(errors.NotFound):
            use()
    assert list(path.iterdir()) == []


def test_a_header_that_does_not_match_its_checksum_is_refused(path: Path) -> None:
    FilePool.create("test", {"path": path, "checksum": "crc32"})
    header = (path / "pool.json").read_bytes()
    (path / "pool.json").write_bytes(header.replace(b'"checksum": "crc32"', b'"checksul": "crc32"'))
    with pytest.raises(errors.Corrupt, match="does not match its checksum"):
        FilePool.open("test", {"path": path})


def test_options_are_recorded_for_who_finds_the_pool_again(tmp_path):
    made = FilePool.create("p", {"path": str(tmp_path / "pool"), "checksum": "crc32"})
    before = json.loads((tmp_path / "pool" / "pool.json").read_text())
    assert made.set_options({"classes": "scratch", "prealloc": False})["classes"] == "scratch"
    after = json.loads((tmp_path / "pool" / "pool.json").read_text())
    again = FilePool.open("p", {"path": str(tmp_path / "pool")})
    assert again.id == made.id
    assert again.options == made.options == made.spec()["options"]
    assert (again.options["checksum"], again.options["prealloc"]) == ("crc32", False)
    for fields in (before, after):
        del fields["options"], fields["crc32"]
    assert before == after


def test_options_of_a_damaged_pool_are_not_changed(tmp_path):
    made = FilePool.create("p", {"path": str(tmp_path / "pool")})
    header = tmp_path / "pool" / "pool.json"
    header.write_text(header.read_text().replace("prealloc", "preallok"))
    damaged = header.read_bytes()
    with pytest.raises(errors.Corrupt):
        made.set_options({"classes": "scratch"})
    assert header.read_bytes() == damaged
    assert made.options["classes"] == ""
