# SPDX-License-Identifier: Apache-2.0
"""The cloud of a command: that of the OpenStack client, or the one the environment names."""

import os
from typing import Any

from fisk_core.cli.base import FiskCommand
from fisk_core.errors import InvalidValue, MissingTool, Unauthenticated
from fisk_openstack.cloud import Cloud


class CloudCommand(FiskCommand):
    """A command that can do with a cloud what it cannot without."""

    def cloud(self) -> Cloud | None:
        """Give the cloud, None when none is named; raises Unauthenticated, MissingTool."""
        if not hasattr(self.app, "client_manager"):
            return _of_environment()
        client: Any = self.app
        told = client.cloud.config
        if not (told.get("auth_url") or (told.get("auth") or {}).get("auth_url")):
            return None
        return self._of_client()

    def _of_client(self) -> Cloud:
        """Give the cloud the OpenStack client was told of, which it has not checked for us."""
        from openstack.connection import Connection
        from openstack.exceptions import SDKException

        client: Any = self.app
        options = client.options
        try:
            return Cloud(Connection(config=client.cloud_config.get_one(options.cloud, argparse=options)))
        except SDKException as problem:
            raise Unauthenticated(f"the cloud cannot be asked: {problem}") from problem

    def required_cloud(self) -> Cloud:
        """Give the cloud; raises InvalidValue when none is named."""
        found = self.cloud()
        if found is None:
            raise InvalidValue("which cloud? Set OS_CLOUD, or OS_AUTH_URL and what goes with it")
        return found


def _of_environment() -> Cloud | None:
    if not (os.environ.get("OS_CLOUD") or os.environ.get("OS_AUTH_URL")):
        return None
    try:
        import openstack
    except ImportError:
        raise MissingTool("to ask a cloud, install the package openstacksdk") from None
    try:
        return Cloud(openstack.connect())
    except openstack.exceptions.SDKException as problem:
        raise Unauthenticated(f"the cloud cannot be asked: {problem}") from problem
