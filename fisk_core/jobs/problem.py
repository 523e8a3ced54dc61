# SPDX-License-Identifier: Apache-2.0
"""Problem documents, in which a failed job says why; see ``fisk_core.problem``."""

from fisk_core.problem import document as document
from fisk_core.problem import error_of as error_of
