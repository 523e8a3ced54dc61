# SPDX-License-Identifier: Apache-2.0
"""Configuration of the manual; ``make docs`` builds it."""

import sys
from pathlib import Path

from fisk_core import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Fisk"
author = "The Fisk authors"
version = release = __version__

extensions = [
    "adapter_options",
    "api_operations",
    "cliff.sphinxext",
    "oslo_config.sphinxext",
    "catalog_tables",
    "error_table",
    "struct_layout",
    "support_matrix",
]
exclude_patterns = ["_ext"]
nitpicky = True

autoprogram_cliff_application = "fisk"
autoprogram_cliff_app_dist_name = "fisk"

html_theme = "alabaster"
html_theme_options = {"description": "One resource behind every block service", "page_width": "72em"}
html_show_copyright = False
