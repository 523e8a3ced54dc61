# SPDX-License-Identifier: Apache-2.0
"""The client of fiskd: an engine behind a daemon, with the verbs of one in this process."""

from fisk_core.client.engine import RemoteEngine
from fisk_core.client.transport import Patience

__all__ = ["Patience", "RemoteEngine"]
