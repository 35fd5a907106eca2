"""Formulas of a page as MathML, which browsers show without a script or a font from elsewhere."""

from __future__ import annotations

import re
from functools import cache

from markupsafe import Markup, escape

FORMULA = re.compile(r"\$([^$]+)\$")


def formulas(text: str) -> Markup:
    """Returns text as HTML, with the TeX between dollar signs as MathML.

    This is for texts of this package. In texts of other origin, a dollar sign is a dollar sign.
    """
    # The parts at odd places are formulas.
    parts = FORMULA.split(text)
    return Markup("").join(mathml(part) if i % 2 else escape(part) for i, part in enumerate(parts))


@cache
def mathml(tex: str) -> Markup:
    """Returns a formula in TeX as MathML."""
    from latex2mathml.converter import convert

    return Markup(convert(tex))
