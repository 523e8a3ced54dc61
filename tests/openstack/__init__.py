# SPDX-License-Identifier: Apache-2.0
"""What is only true of real services: run by the Python of ministack, against the ministack that is up."""
