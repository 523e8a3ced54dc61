# SPDX-License-Identifier: Apache-2.0
"""How a connection begins: from nothing, or where another process left it."""

from dataclasses import dataclass

from fisk_core.dataplane.negotiation import Agreement


@dataclass(slots=True)
class Start:
    """What is known of a connection before it is served."""

    name: str | None = None
    """the export name under which the client was let in; None is that of the server"""
    read_only: bool = False
    received: bytes = b""
    """what the client said already"""
    said: int = 0
    """bytes of our first answers that it has heard already"""
    agreed: Agreement | None = None
    """what was agreed on; negotiation goes on behind it"""
    over: bool = False
    """negotiation is over, transmission goes on"""
