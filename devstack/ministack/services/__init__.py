# SPDX-License-Identifier: Apache-2.0
"""One module for each kind of service: how it is prepared, started, found ready and stopped."""
