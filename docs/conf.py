"""Configure Sphinx for the site.

`make site` first stages the pages into build/site-src (docs/_ext/pages.py) and builds them from
there.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project = "qwen3lab"
author = ""
html_title = "qwen3lab"
language = "en"
exclude_patterns = ["_*"]
html_static_path = [str(HERE / "_static")]
html_css_files = ["site.css"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "offline", "languages"]
nb_execution_mode = "off"  # the outputs are the committed ones
nb_merge_streams = True
nb_ipywidgets_js = {}  # the widgets' static form needs no script
myst_enable_extensions = ["dollarmath", "attrs_inline"]
myst_heading_anchors = 3
myst_update_mathjax = False
html_math_renderer = "mathml"
html_search_language = "en"  # with Chinese: offline.SearchBoth

autodoc_typehints = "none"  # the signature shows them as they are written
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "sphinx_book_theme"
html_theme_options = {
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navigation_with_keys": False,
}
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_use_index = html_domain_indices = False  # replaced by the list of modules and the search
