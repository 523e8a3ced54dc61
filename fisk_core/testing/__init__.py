# SPDX-License-Identifier: Apache-2.0
"""What others need to test their own pools against Fisk; imported by tests only, needs pytest."""
