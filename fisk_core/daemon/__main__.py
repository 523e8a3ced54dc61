# SPDX-License-Identifier: Apache-2.0
"""``python -m fisk_core.daemon``: fiskd."""

import sys

from fisk_core.daemon.main import main

sys.exit(main())
