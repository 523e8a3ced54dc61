# SPDX-License-Identifier: Apache-2.0
"""The hook: an ``oslo.config.driver`` that gives no options but lets Nova import ``nova.virt.fisk``."""

import sys
from typing import Any

from oslo_config import sources

from fisk_openstack.nova_imagebackend.finder import Finder


class FiskConfigurationSourceDriver(sources.ConfigurationSourceDriver):
    """``[DEFAULT] config_source = fisk`` with ``[fisk] driver = fisk``."""

    def open_source_from_opt_group(self, conf: Any, group_name: str) -> "Nothing":
        """Install the finder, once in a process."""
        if not any(isinstance(each, Finder) for each in sys.meta_path):
            sys.meta_path.insert(0, Finder())
        return Nothing()

    def list_options_for_discovery(self) -> list[Any]:
        """There is nothing to configure here."""
        return []


class Nothing(sources.ConfigurationSource):
    """A source without a single option."""

    def get(self, group_name: str | None, option_name: str, opt: Any) -> tuple[Any, None]:
        """Say that an option is not here."""
        return sources._NoValue, None
