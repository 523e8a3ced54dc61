# SPDX-License-Identifier: Apache-2.0
"""``python -m fisk_core.dataplane FD``: one worker, with nothing loaded that it does not need."""

import sys

from fisk_core.dataplane.worker import main

sys.exit(main())
