# SPDX-License-Identifier: Apache-2.0
"""Every call of the operating system that fisk_core makes is made to fail, in every way it can."""
