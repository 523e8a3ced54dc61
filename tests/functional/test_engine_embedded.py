# SPDX-License-Identifier: Apache-2.0
"""The engine of this process does what every engine must."""

from fisk_core.testing.engine_conformance import EngineConformance


class TestEmbedded(EngineConformance):
    pass
