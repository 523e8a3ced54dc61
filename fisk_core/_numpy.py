# SPDX-License-Identifier: Apache-2.0
"""numpy, loaded when first used: it is half of the memory and start-up time of a process that never needs it.

``from fisk_core._numpy import np`` in place of ``import numpy as np``.
"""

from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
else:

    class _Numpy(ModuleType):
        def __getattr__(self, name: str) -> Any:
            import numpy

            value = getattr(numpy, name)
            setattr(self, name, value)  # the next time it is found without asking
            return value

    np = _Numpy("numpy")

__all__ = ["np"]
