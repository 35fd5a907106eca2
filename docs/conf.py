"""Configuration of the documentation, which ``make docs`` builds from these pages and from the docstrings."""

import sys
from pathlib import Path

import sdegen

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "sdegen"
release = sdegen.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "options"]
exclude_patterns = ["extensions"]
html_title = "sdegen"
highlight_language = "none"
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["style.css"]

# The site shows formulas as MathML, without a script, a font or a network.
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

# Notebooks are stored without output and run when the site is built; an error fails the build.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_execution_in_temp = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
