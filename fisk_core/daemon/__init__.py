# SPDX-License-Identifier: Apache-2.0
"""``fiskd``: the control plane of one host as a process."""
