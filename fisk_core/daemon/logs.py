# SPDX-License-Identifier: Apache-2.0
"""Logs: oslo.log, with the id of the request in every line that is written for one."""

import logging

from oslo_config import cfg
from oslo_log import log

from fisk_core import __version__
from fisk_core.api.request import request_id
from fisk_core.text import printable


class _RequestId(logging.Filter):
    """Adds ``request_id``, by which the formatter knows lines that belong to a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = request_id()
        if found:
            record.request_id = found
        return True


class _OneLine(logging.Filter):
    """Escapes what strangers put into a message: it must not look like a line of its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if not message.isprintable():
            record.msg, record.args = printable(message), None
        return True


def set_up(conf: cfg.ConfigOpts) -> None:
    """Log as configured; may be called again after the configuration changed."""
    log.setup(conf, "fiskd", __version__)
    filters = (_RequestId(), _OneLine())
    for handler in logging.getLogger().handlers:
        for each in filters:
            handler.addFilter(each)
