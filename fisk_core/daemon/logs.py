# SPDX-License-Identifier: Apache-2.0
"""Logs: oslo.log, with the id of the request in every line that is written for one."""

import logging

from oslo_config import cfg
from oslo_log import log

from fisk_core import __version__
from fisk_core.api.request import request_id


class _RequestId(logging.Filter):
    """Adds ``request_id``, by which the formatter knows lines that belong to a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = request_id()
        if found:
            record.request_id = found
        return True


def set_up(conf: cfg.ConfigOpts) -> None:
    """Log as configured; may be called again after the configuration changed."""
    log.setup(conf, "fiskd", __version__)
    adder = _RequestId()
    for handler in logging.getLogger().handlers:
        handler.addFilter(adder)
