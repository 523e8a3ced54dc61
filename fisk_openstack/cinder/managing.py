# SPDX-License-Identifier: Apache-2.0
"""Fisks that Cinder did not make become volumes and snapshots of it, and may leave it again.

A live Fisk that nothing else of OpenStack has becomes the volume itself.  Any other (an image, a disk of a
server, a snapshot) stays what it is: the volume is a clone of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from cinder import exception
from cinder.volume import volume_utils

from fisk_core.errors import NotFound
from fisk_core.model import Fisk, Role
from fisk_openstack.cinder.base import GIB, snapshot_labels, volume_labels
from fisk_openstack.cinder.errors import cinder_errors
from fisk_openstack.cinder.qos import wishes_of, without
from fisk_openstack.cinder.volumes import Volumes
from fisk_openstack.labels import NAME, PROJECT, SHOWN, Kind, fisk_id, fisk_name

Entries = list[dict[str, Any]]


class Managing(Volumes):
    """Which Fisks could be volumes and snapshots, and making them so.

    A reference is ``{'source-name': …}`` or ``{'source-id': …}``: the name or the id of a Fisk.
    """

    def manage_existing(self, volume: Any, existing_ref: Mapping[str, str]) -> None:
        """Make a volume of a Fisk; raises ManageExistingInvalidReference, …AlreadyManaged."""
        with cinder_errors(volume.id):
            fisk = self._referred(existing_ref)
            size = _gib(fisk)  # Cinder does not know it yet
            if fisk.frozen or _kind(fisk):
                self._clone(fisk.id, volume, size)
                return
            if fisk.size < size * GIB:
                self.engine.resize(fisk.id, size * GIB)
            self.engine.set(
                fisk.id,
                name=fisk_name(Kind.VOLUME, volume.name_id),
                role=Role.VOLUME,
                attributes=dict(volume_labels(volume) | wishes_of(volume, size=size)),
            )

    def manage_existing_get_size(self, volume: Any, existing_ref: Mapping[str, str]) -> int:
        """Give the GiB a volume of a Fisk needs; raises ManageExistingInvalidReference, …AlreadyManaged."""
        with cinder_errors(volume.id):
            return _gib(self._referred(existing_ref))

    def unmanage(self, volume: Any) -> None:
        """Let the Fisk of a volume be; it keeps its name."""
        with cinder_errors(volume.id):
            self._release(self._volume(volume), Kind.VOLUME)

    def get_manageable_volumes(
        self,
        cinder_volumes: Iterable[Any],
        marker: Any,
        limit: int,
        offset: int,
        sort_keys: Sequence[str],
        sort_dirs: Sequence[str],
    ) -> Entries:
        """Give what in our pool could be a volume, and what is one."""
        ours = {each.name_id: each.id for each in cinder_volumes}
        with cinder_errors():
            found = [each for each in self.engine.list(pool=self.pool) if each.role != Role.SNAPSHOT]
            used = {each.fisk_id for each in self.engine.attachments()}
        entries = [_entry(each, Kind.VOLUME, ours, used) for each in found]
        return _page(entries, marker, limit, offset, sort_keys, sort_dirs)

    def manage_existing_snapshot(self, snapshot: Any, existing_ref: Mapping[str, str]) -> None:
        """Make a snapshot of a Fisk: the Fisk itself if it is one of the volume, else one taken now."""
        name = fisk_name(Kind.SNAPSHOT, snapshot.id)
        with cinder_errors(snapshot.volume_id):
            fisk = self._referred(existing_ref)
            if fisk.frozen and not _kind(fisk) and fisk.parent_id == self._volume(snapshot.volume).id:
                self.engine.set(
                    fisk.id, name=name, role=Role.SNAPSHOT, attributes=dict(snapshot_labels(snapshot))
                )
                return
            self.engine.snapshot(
                fisk.id, name, attributes=snapshot_labels(snapshot), id=fisk_id(Kind.SNAPSHOT, snapshot.id)
            )

    def manage_existing_snapshot_get_size(self, snapshot: Any, existing_ref: Mapping[str, str]) -> int:
        """Give the GiB of a Fisk; raises ManageExistingInvalidReference, also if the volume has fewer."""
        with cinder_errors(snapshot.volume_id):
            size = _gib(self._referred(existing_ref))
        if size > snapshot.volume_size:
            _refuse(existing_ref, f"its {size} GiB are more than the volume has")
        return size

    def unmanage_snapshot(self, snapshot: Any) -> None:
        """Let the Fisk of a snapshot be; it keeps its name."""
        with cinder_errors(snapshot.volume_id):
            self._release(self._snapshot(snapshot), Kind.SNAPSHOT)

    def get_manageable_snapshots(
        self,
        cinder_snapshots: Iterable[Any],
        marker: Any,
        limit: int,
        offset: int,
        sort_keys: Sequence[str],
        sort_dirs: Sequence[str],
    ) -> Entries:
        """Give the snapshots of Fisks in our pool: those that could be Cinder's and those that are."""
        ours = {each.id: each.id for each in cinder_snapshots}
        with cinder_errors():
            found = {each.id: each for each in self.engine.list(pool=self.pool)}
        entries = []
        for each in found.values():
            parent = found.get(each.parent_id or "")
            if each.role == Role.SNAPSHOT and parent:
                source = {"source_reference": {"source-name": parent.name}}
                entries.append(_entry(each, Kind.SNAPSHOT, ours, ()) | source)
        return _page(entries, marker, limit, offset, sort_keys, sort_dirs)

    def _referred(self, reference: Mapping[str, str]) -> Fisk:
        """Give the Fisk a reference means."""
        if not isinstance(reference, Mapping):
            reference = {"source-name": reference}
        ref = reference.get("source-id") or reference.get("source-name")
        if not ref:
            _refuse(reference, "it has neither source-name nor source-id")
        try:
            fisk = self.engine.get(str(ref))
        except NotFound as problem:
            _refuse(reference, str(problem))
        if fisk.pool != self.pool:
            _refuse(reference, f"it is in the pool {fisk.pool}, not in {self.pool}")
        known = (fisk.attributes.get(key) for key in (SHOWN, Kind.VOLUME))
        if any(volume_utils.check_already_managed_volume(own) for own in known):
            raise exception.ManageExistingAlreadyManaged(volume_ref=ref)
        return fisk

    def _release(self, fisk: Fisk, kind: Kind) -> None:
        gone = (kind.value, SHOWN, NAME, PROJECT, *without())
        self.engine.set(fisk.id, attributes={key: None for key in gone if key in fisk.attributes})


def _refuse(reference: Any, reason: str) -> NoReturn:
    raise exception.ManageExistingInvalidReference(existing_ref=reference, reason=reason)


def _kind(fisk: Fisk) -> Kind | None:
    """Give what a Fisk is in OpenStack already."""
    return next((kind for kind in Kind if kind.value in fisk.attributes), None)


def _gib(fisk: Fisk) -> int:
    return -(-fisk.size // GIB)


def _entry(fisk: Fisk, kind: Kind, ours: Mapping[str, str], used: Iterable[str]) -> dict[str, Any]:
    """Give what Cinder wants to know of a Fisk that is or could be one of its own."""
    own = ours.get(fisk.attributes.get(kind.value, ""))
    reason = "already managed" if own else None
    if fisk.id in used and not reason:
        reason = "in use"
    is_now = _kind(fisk)
    return {
        "reference": {"source-name": fisk.name},
        "size": _gib(fisk),
        "cinder_id": own,
        "safe_to_manage": reason is None,
        "reason_not_safe": reason,
        "extra_info": {"id": fisk.id, "role": fisk.role, "openstack": is_now.word if is_now else None},
    }


def _page(entries: Entries, marker: Any, limit: int, offset: int, keys: Any, dirs: Any) -> Entries:
    found: Entries = volume_utils.paginate_entries_list(entries, marker, limit, offset, keys, dirs)
    return found
