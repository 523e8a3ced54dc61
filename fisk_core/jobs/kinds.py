# SPDX-License-Identifier: Apache-2.0
"""The kinds of job: what arguments each takes, what is settled when it is submitted, and what it does.

Each can be done again from its arguments alone, wherever an earlier run of it was cut off.  Hence whatever it
makes has its id before it begins.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisk_core.engine import validate
from fisk_core.errors import InvalidValue, Unsupported
from fisk_core.jobs import imports, paths, targets
from fisk_core.jobs.task import Task

if TYPE_CHECKING:
    from fisk_core.engine import Engine

Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """``takes``: name → types; ``needs``: those that must be given.

    ``prepare`` only adds arguments, and raises what is wrong with those it got; ``run`` gives the result as
    JSON.
    """

    takes: Mapping[str, type]
    needs: Sequence[str]
    prepare: Callable[["Engine", Sequence[Path], Arguments], None]
    run: Callable[[Task], Any]

    def check(self, arguments: Mapping[str, Any]) -> Arguments:
        """Give the arguments without those that are None; raises InvalidValue."""
        given = {key: value for key, value in arguments.items() if value is not None}
        for key, value in given.items():
            wanted = self.takes.get(key)
            if wanted is None:
                raise InvalidValue(f"'{key}' is no argument of this kind of job ({', '.join(self.takes)})")
            if not _fits(value, wanted):
                raise InvalidValue(f"the argument '{key}' has the wrong type")
        for key in self.needs:
            if key not in given:
                raise InvalidValue(f"the argument '{key}' is missing")
        return given


def _fits(value: Any, wanted: type) -> bool:
    """Whether a value has a type; lists and dictionaries are of strings."""
    if isinstance(value, bool) or not isinstance(value, wanted):
        return isinstance(value, bool) and wanted is bool
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(isinstance(each, str) for each in inner)


def _nothing(engine: "Engine", directories: Sequence[Path], arguments: Arguments) -> None:
    """There is nothing to settle."""


def _prepare_import(engine: "Engine", directories: Sequence[Path], arguments: Arguments) -> None:
    arguments["id"] = validate.fisk_id(arguments.get("id"))
    validate.name(arguments["name"])
    with paths.opened_source(arguments["source"], directories):
        pass


def _prepare_download(engine: "Engine", directories: Sequence[Path], arguments: Arguments) -> None:
    arguments["fisk_id"] = engine.get(arguments["ref"]).id
    with paths.opened_folder(arguments["target"], directories):
        pass


def _prepare_scrub(engine: "Engine", directories: Sequence[Path], arguments: Arguments) -> None:
    arguments["ids"] = [engine.get(ref).id for ref in arguments.get("refs", [])]


def _prepare_move(engine: "Engine", directories: Sequence[Path], arguments: Arguments) -> None:
    arguments["fisk_id"] = engine.get(arguments["ref"]).id
    engine.pool(arguments["pool"])


def _move(task: Task) -> Any:
    moved = task.engine.move(task.arguments["fisk_id"], task.arguments["pool"], progress=task.progress)
    return {"fisk": moved.id, "pool": moved.pool}


def _scrub(task: Task) -> Any:
    return asdict(task.engine.scrub(*task.arguments["ids"], progress=task.progress))


def _check(task: Task) -> Any:
    repair = task.arguments.get("repair", False)
    return asdict(task.engine.check(repair=repair, progress=task.progress))


def _collect(task: Task) -> Any:
    dry_run = task.arguments.get("dry_run", False)
    return asdict(task.engine.collect(dry_run=dry_run, progress=task.progress))


def _prepare_rescan(engine: "Engine", directories: Sequence[Path], arguments: Arguments) -> None:
    """A pool that the catalog has lost is a path of this host, like any other."""
    name = validate.name(arguments["pool"])
    options = arguments.get("options", {})
    if name in engine.pool_names() or not (options or "driver" in arguments):
        return
    if arguments.get("driver", "file") != "file" or set(options) != {"path"}:
        raise Unsupported("a job finds only pools of files again; the command on the host itself finds any")
    with paths.opened_folder(options["path"].rstrip("/"), directories):
        pass


def _rescan(task: Task) -> Any:
    options = {key: value for key, value in task.arguments.items() if key != "pool"}
    return asdict(task.engine.rescan(task.arguments["pool"], progress=task.progress, **options))


KINDS: Mapping[str, Kind] = {
    "import": Kind(
        {
            "source": str,
            "name": str,
            "id": str,
            "format": str,
            "role": str,
            "frozen": bool,
            "pool": str,
            "keep_original": bool,
            "attributes": dict,
            "block_size": int,
            "page_size": int,
        },
        ("source", "name"),
        _prepare_import,
        imports.run,
    ),
    "download": Kind(
        {"ref": str, "target": str, "format": str, "compress": bool, "overwrite": bool},
        ("ref", "target"),
        _prepare_download,
        targets.run,
    ),
    "scrub": Kind({"refs": list}, (), _prepare_scrub, _scrub),
    "check": Kind({"repair": bool}, (), _nothing, _check),
    "collect": Kind({"dry_run": bool}, (), _nothing, _collect),
    "move": Kind({"ref": str, "pool": str}, ("ref", "pool"), _prepare_move, _move),
    "rescan": Kind(
        {"pool": str, "driver": str, "options": dict, "force": bool}, ("pool",), _prepare_rescan, _rescan
    ),
}
