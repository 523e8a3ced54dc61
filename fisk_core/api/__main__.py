# SPDX-License-Identifier: Apache-2.0
"""``python -m fisk_core.api``: print the OpenAPI document."""

import json
import sys

from fisk_core.api.app import create_app

json.dump(create_app().openapi(), sys.stdout, indent=1)
print()
