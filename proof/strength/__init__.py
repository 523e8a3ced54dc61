# SPDX-License-Identifier: Apache-2.0
"""How strong the tests are, where the promises rest: branch coverage and mutation of those modules."""
