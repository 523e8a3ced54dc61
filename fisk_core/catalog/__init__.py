# SPDX-License-Identifier: Apache-2.0
"""The catalog: the truth for names, roles, layer references and leases, in SQL.

``Catalog`` opens the database and gives transactions; ``fisks``, ``maps``, ``pools`` and ``leases`` hold the
statements on one table family each, as functions whose first argument is the connection of a transaction.
Nothing here touches a pool.
"""

from fisk_core.catalog.database import Catalog
from fisk_core.catalog.fisks import Record

__all__ = ["Catalog", "Record"]
