# SPDX-License-Identifier: Apache-2.0
"""Speed and memory, measured side by side with other servers in one run.  ``python -m bench``."""
