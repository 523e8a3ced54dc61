# SPDX-License-Identifier: Apache-2.0
"""What must agree, one rule a function: each gives what does not, and how it may be put right.

A rule offers a fix only for what nobody can be working on: the resource is gone, or waits for nothing more,
and all that was longer ago than the time of grace.
"""

import uuid
from collections.abc import Callable, Collection, Iterator

from fisk_core.model import Attachment, Fisk
from fisk_core.services.importer import IMAGE
from fisk_openstack.cloud import HOME, Cloud, Resource
from fisk_openstack.labels import Kind
from fisk_openstack.reconcile import findings
from fisk_openstack.reconcile.findings import Finding, Fix
from fisk_openstack.reconcile.survey import Survey, lives
from fisk_openstack.things import kind_of

_UNDER_WAY = {
    Kind.IMAGE: {"saving", "uploading", "importing"},
    Kind.VOLUME: {
        *("creating", "deleting", "extending", "downloading", "uploading", "attaching", "detaching"),
        *("retyping", "backing-up", "restoring-backup", "reverting"),
    },
    Kind.SNAPSHOT: {"creating", "deleting", "backing-up", "restoring"},
    Kind.BACKUP: {"creating", "deleting", "restoring"},
    Kind.DISK: {"BUILD", "REBUILD", "RESIZE", "MIGRATING", "REBOOT", "HARD_REBOOT"},
}
"""statuses that end by themselves while their service lives"""
_WHOLE = {
    Kind.VOLUME: {"available", "in-use"},
    Kind.SNAPSHOT: {"available"},
    Kind.BACKUP: {"available"},
    Kind.IMAGE: {"active"},
}
"""statuses in which its Fisk must be there"""
_RUNNING = {"ACTIVE", "SHUTOFF", "PAUSED", "SUSPENDED", "RESCUE"}
_SETTLED = _RUNNING | {"SHELVED", "SHELVED_OFFLOADED"}
"""statuses of servers that are neither being resized nor waiting to be confirmed"""


def compare(seen: Survey, cloud: Cloud, ids: Collection[str] = ()) -> list[Finding]:
    """Give everything that does not agree, or, of that, what resources with these ids have to do with.

    Asks again, one by one, for what seems to be gone.
    """
    rules: list[Callable[[Survey, Cloud], Iterator[Finding]]] = [
        orphans,
        untold_images,
        leftovers,
        twins,
        builds,
        attachments,
        missing,
        stuck,
    ]
    found = [each for rule in rules for each in rule(seen, cloud)]
    return [each for each in found if not ids or each.own.partition("/")[0] in ids]


def orphans(seen: Survey, cloud: Cloud) -> Iterator[Finding]:
    """Fisks whose resource the service does not know."""
    for fisk in seen.fisks:
        kind, own = _label(fisk)
        if not seen.settled(fisk.created_at) or not _gone(seen, cloud, kind, own):
            continue
        reason = f"there is no {_word(kind)} {_resource_id(kind, own)}"
        if not seen.owned(fisk):
            reason = f"{reason}, nor a project of this cloud that the Fisk belongs to"
        fix = Fix.DELETE if seen.owned(fisk) else Fix.NONE
        yield Finding(findings.ORPHAN, kind.word, own, reason, fix, fisk.id)


def untold_images(seen: Survey, cloud: Cloud) -> Iterator[Finding]:
    """Fisks of images of which Glance has recorded in no store that it has them."""
    for fisk in seen.fisks:
        kind, own = _label(fisk)
        image = seen.resources[Kind.IMAGE].get(own) if kind is Kind.IMAGE else None
        if image is None or image.stores != () or not seen.settled(fisk.created_at):
            continue
        is_over = seen.settled(image.changed_at) and seen.owned(fisk)
        reason = f"the image is {image.status}, and Glance has its data nowhere"
        yield Finding(
            findings.UNFINISHED, kind.word, own, reason, Fix.DELETE if is_over else Fix.NONE, fisk.id
        )


def leftovers(seen: Survey, cloud: Cloud) -> Iterator[Finding]:
    """What servers had only for a rescue, or to come back from a resize, which are over."""
    for fisk in seen.fisks:
        kind, own = _label(fisk)
        server = seen.resources[Kind.DISK].get(_resource_id(kind, own)) if kind is Kind.DISK else None
        if server is None or server.task or server.status not in _SETTLED:
            continue
        is_passing = "@" in own or (own.endswith(".rescue") and server.status != "RESCUE")
        if not is_passing or not seen.settled(server.changed_at) or not seen.settled(fisk.created_at):
            continue
        fix = Fix.DELETE if seen.owned(fisk) else Fix.NONE
        reason = f"the server is {server.status}, and has no use for it any more"
        yield Finding(findings.LEFTOVER, kind.word, own, reason, fix, fisk.id)


def twins(seen: Survey, cloud: Cloud) -> Iterator[Finding]:
    """The bytes of images as uploaded, where the image itself has no Fisk (any more)."""
    there = {each.id for each in (*seen.fisks, *seen.builds)}
    for fisk in seen.fisks:
        kind, own = _label(fisk)
        if kind is not Kind.ORIGINAL or fisk.attributes.get(IMAGE) in there:
            continue
        if not seen.settled(fisk.created_at) or _gone(seen, cloud, kind, own):
            continue  # it may be under way; or it is an orphan, and told already
        fix = Fix.DELETE if seen.owned(fisk) else Fix.NONE
        yield Finding(findings.TWIN, kind.word, own, "the Fisk of the image is not there", fix, fisk.id)


def builds(seen: Survey, cloud: Cloud) -> Iterator[Finding]:
    """Fisks under construction that nobody writes to."""
    for fisk in seen.builds:
        kind, own = _label(fisk)
        if seen.connections.get(fisk.id) or not seen.settled(fisk.created_at):
            continue
        is_ours = seen.owned(fisk) and fisk.id in seen.connections
        reason = "it is under construction, and nobody is connected to it"
        yield Finding(findings.UNFINISHED, kind.word, own, reason, Fix.DROP if is_ours else Fix.NONE, fisk.id)


def attachments(seen: Survey, cloud: Cloud) -> Iterator[Finding]:
    """Uses of Fisks by servers that are gone and by processes that ended."""
    fisks = {each.id: each for each in seen.fisks}
    for each in seen.attachments:
        fisk = fisks.get(each.fisk_id)
        if fisk is None or not seen.settled(each.created_at):
            continue
        kind, own = _label(fisk)
        reason = _unused(seen, cloud, each, fisk)
        if reason:
            # Only its own daemon knows whether something still has it open.
            fix = Fix.DETACH if seen.owned(fisk) else Fix.NONE
            yield Finding(findings.ATTACHMENT, kind.word, own, reason, fix, each.id)


def _unused(seen: Survey, cloud: Cloud, attachment: Attachment, fisk: Fisk) -> str:
    """Say why nobody uses an attachment; nothing when somebody may."""
    consumer = attachment.consumer
    if _is_id(consumer):
        gone = consumer not in seen.resources[Kind.DISK] and not cloud.exists(Kind.DISK, consumer)
        return f"server {consumer}, for which it is attached, does not exist" if gone else ""
    if lives(consumer, seen.here) is False:
        return f"process {consumer} has ended"
    kind, own = _label(fisk)
    volume = seen.resources[Kind.VOLUME].get(own) if kind is Kind.VOLUME else None
    if volume and consumer == "os-brick" and volume.status == "available" and not volume.attached:
        return "Cinder has the volume attached nowhere"
    return ""


def missing(seen: Survey, cloud: Cloud) -> Iterator[Finding]:
    """Resources that should be Fisks and have none.  Nothing of ours can bring their data back."""
    there = {_label(each) for each in seen.fisks}
    there |= {(HOME[kind], own.partition("/")[0]) for kind, own in there if kind is Kind.DISK}
    for kind, statuses in _WHOLE.items():
        for own, each in seen.resources[kind].items():
            is_whole = each.status in statuses and seen.settled(each.changed_at)
            names = {(kind, known) for known, other in seen.resources[kind].items() if other is each}
            if own == each.id and is_whole and not names & there and _is_fisk(seen, cloud, kind, each):
                yield Finding(findings.MISSING, kind.word, own, f"it is {each.status} and has no Fisk")
    hosts = {
        server.host
        for kind, own in there
        if kind is Kind.DISK and (server := seen.resources[Kind.DISK].get(own)) and server.host
    }
    for own, each in seen.resources[Kind.DISK].items():
        runs = (
            each.status in _RUNNING and each.parent and each.host in hosts and seen.settled(each.changed_at)
        )
        if runs and (Kind.DISK, own) not in there:
            yield Finding(findings.MISSING, "server", own, f"it is {each.status} and has no disk")


def _is_fisk(seen: Survey, cloud: Cloud, kind: Kind, each: Resource) -> bool:
    """Whether a resource is one that Fisk stores, as far as its service tells."""
    if kind is Kind.BACKUP:
        return each.place in seen.pools
    if kind is Kind.IMAGE:
        return any(url.startswith("fisk://") for url in cloud.locations(each.id) or ())
    volume = each if kind is Kind.VOLUME else seen.resources[Kind.VOLUME].get(each.parent)
    return bool(volume) and volume.host in seen.volume_hosts  # type: ignore[union-attr]  # it is not None


def stuck(seen: Survey, cloud: Cloud) -> Iterator[Finding]:
    """Resources that have been on their way for long: their service was killed, and does not know."""
    for kind, statuses in _UNDER_WAY.items():
        for own, each in seen.resources[kind].items():
            if own == each.id and each.status in statuses and seen.settled(each.changed_at):
                reason = f"it is {each.status} since {each.changed_at:%Y-%m-%d %H:%M:%S} UTC"
                yield Finding(findings.STUCK, _word(kind), own, reason)


def _label(fisk: Fisk) -> tuple[Kind, str]:
    found = kind_of(fisk)
    assert found is not None  # a survey has no others
    return found


def _resource_id(kind: Kind, own: str) -> str:
    return own.partition("/")[0] if kind is Kind.DISK else own


def _word(kind: Kind) -> str:
    return "server" if kind is Kind.DISK else HOME[kind].word


def _gone(seen: Survey, cloud: Cloud, kind: Kind, own: str) -> bool:
    resource = _resource_id(kind, own)
    return resource not in seen.resources[HOME[kind]] and not cloud.exists(kind, resource)


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
