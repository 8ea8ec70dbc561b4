"""How Sphinx builds the pages: Markdown by MyST, and every warning an error (`make docs`)."""

from __future__ import annotations

project = "relay"
author = "the relay developers"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "relay"
