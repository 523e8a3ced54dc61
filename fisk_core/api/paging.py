# SPDX-License-Identifier: Apache-2.0
"""How much one answer holds."""

from fisk_core.api.services import Services
from fisk_core.errors import LimitExceeded

DEFAULT_PAGE = 100


def page_size(services: Services, asked: int | None) -> int:
    """Give the number of objects of a page; raises LimitExceeded."""
    most = services.limits.max_page
    if asked is None:
        return min(DEFAULT_PAGE, most)
    if asked > most:
        raise LimitExceeded(f"a page has at most {most} objects, not {asked}")
    return asked
