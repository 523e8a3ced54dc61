# SPDX-License-Identifier: Apache-2.0
"""Our errors in Cinder's words."""

from collections.abc import Iterator
from contextlib import contextmanager

from cinder import exception

from fisk_core.errors import FiskError, InUse


@contextmanager
def cinder_errors(volume_id: str = "") -> Iterator[None]:
    """Raise what Cinder understands: VolumeIsBusy for what is in use, else VolumeBackendAPIException."""
    try:
        yield
    except InUse as problem:
        raise exception.VolumeIsBusy(volume_name=volume_id, message=str(problem)) from problem
    except FiskError as problem:
        raise exception.VolumeBackendAPIException(data=str(problem)) from problem
