"""How Sphinx builds the web book; tools/book prepares the sources and calls it."""

import os
import sys

sys.path.insert(0, os.environ["MIXER_LITE_BOOK_TOOLS"])

project = "Mixer Lite"
author = "Mixer Lite contributors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "findable",
]
exclude_patterns = ["_static", "extra"]
html_extra_path = ["extra"]  # the notebooks, to download

# Stored outputs, nothing runs.
nb_execution_mode = "off"
nb_merge_streams = True
nb_number_source_lines = False
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist", "attrs_inline"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
add_module_names = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # else attributes are described twice

copybutton_exclude = ".linenos, .gp, .go"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

html_theme = "furo"
html_title = "Mixer Lite"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"  # else browsers ask the server for /favicon.ico
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
