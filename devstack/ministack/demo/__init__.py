# SPDX-License-Identifier: Apache-2.0
"""The demonstration of a cloud: one image through everything it becomes, with what each step costs."""
