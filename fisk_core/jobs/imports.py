# SPDX-License-Identifier: Apache-2.0
"""The job ``import``: an image file of this host becomes a Fisk.

Cut off, it left one of these, and the next run goes on from there:

1. nothing, or a Fisk under construction: that is swept, and the import begins again;
2. the original of an image of another format, but not the image: the original goes, and it begins again;
3. a raw image without the original that was asked for: the original is made, a snapshot;
4. everything: there is nothing to do.
"""

from typing import Any

from fisk_core.errors import NotFound
from fisk_core.jobs import paths
from fisk_core.jobs.task import Task
from fisk_core.model import Fisk, Role
from fisk_core.services import formats, sweep
from fisk_core.services.importer import BYTES, IMAGE, ORIGINAL, links_of


def run(task: Task) -> dict[str, Any]:
    """Give the id of the Fisk, and of its original where that is kept."""
    arguments = dict(task.arguments)
    fisk_id = arguments["id"]
    sweep.sweep_buildings(task.engine, [fisk_id])
    try:
        made = task.engine.get(fisk_id)
    except NotFound:
        made = _import(task, arguments)
    else:
        _complete(task, made)
    original = made.attributes.get(ORIGINAL)
    return {"fisk": made.id} | ({"original": original} if original else {})


def _import(task: Task, arguments: dict[str, Any]) -> Fisk:
    name = f"{arguments['name']}.original"
    for orphan in task.engine.list(name=name, attributes={IMAGE: arguments["id"]}):
        task.engine.delete(orphan.id)
    with paths.opened_source(arguments.pop("source"), task.directories) as stream:
        return task.engine.import_image(stream, progress=task.progress, **arguments)


def _complete(task: Task, image: Fisk) -> None:
    """Make the original that the image names, where that did not come about any more."""
    original = image.attributes.get(ORIGINAL)
    if original is None or not task.arguments.get("keep_original"):
        return
    links = links_of(image.id, formats.RAW, image.attributes)
    if BYTES in image.attributes:
        links[BYTES] = image.attributes[BYTES]
    name = f"{image.name}.original"
    task.engine.snapshot(image.id, name, role=Role.ORIGINAL, attributes=links, id=original)
