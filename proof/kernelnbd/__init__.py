# SPDX-License-Identifier: Apache-2.0
"""A Fisk as a device of the kernel's own NBD client, in a real kernel, while all that serves it is killed."""
