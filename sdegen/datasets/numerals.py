"""Numbers as texts, with a decimal point or a decimal comma, and the words for a missing number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

Decimal = Literal["point", "comma"]

MISSING = frozenset("|-|--|?|.|na|n/a|#n/a|<na>|nan|nat|null|none|inf|+inf|-inf|infinity".split("|"))
"""Words, in lower case, that stand for a missing or infinite value."""
PLAIN = {sign: re.compile(rf"[0-9eE+\-{sign} ]+") for sign in ".,"}
"""Pattern of the characters of ordinary numbers, for each decimal sign. Python itself also reads 1_0, nan and inf."""
OTHER = {".": ",", ",": "."}
"""The decimal sign that a file does not use, for the sign that it uses."""
NAMES: dict[str, Decimal] = {".": "point", ",": "comma"}
"""Value of ``dataset.decimal`` for each decimal sign."""
GROUPS = "'\u2019\u00a0\u2009\u202f"
"""Apostrophes and fixed spaces that separate groups of three digits."""
NUMBERS = {
    sign: re.compile(
        rf"\s*[+\-\u2212]?(?:(?:[1-9][0-9]{{0,2}}(?:[{GROUPS}{other}][0-9]{{3}})+|[0-9]+)(?:[{sign}][0-9]+)?"
        rf"|[0-9]+{last}|[{sign}][0-9]+)(?:[eE][+-]?[0-9]+)?\s*"
    )
    # NumPy writes 1. for 1, but no program writes 1, for 1.
    for sign, other, last in ((".", ",", r"\."), (",", ".", ""))
}
"""Pattern of a number, for each decimal sign."""


def is_missing(text: str) -> bool:
    """Returns True for a text that stands for a missing value."""
    return text.strip().lower() in MISSING


def is_number(text: str, sign: str) -> bool:
    """Returns True for a number with the decimal sign ``sign``, with or without separators of thousands."""
    return NUMBERS[sign].fullmatch(text) is not None


def number(text: str, sign: str) -> float:
    """Returns the value of a number with the decimal sign ``sign``."""
    groups = GROUPS + ("," if sign == "." else ".")
    return float("".join(c for c in text if c not in groups).replace(",", ".").replace("\u2212", "-"))


def values(texts: Sequence[str], sign: str) -> np.ndarray:
    """Returns texts as float64 if they are numbers or missing values, which become NaN; else stripped texts."""
    if all(map(PLAIN[sign].fullmatch, texts)):
        try:
            return np.array([text.replace(",", ".") for text in texts], dtype=np.float64)
        except ValueError:
            pass  # A text is no number, such as 3-4.
    missing = [is_missing(text) for text in texts]
    if all(blank or is_number(text, sign) for blank, text in zip(missing, texts, strict=True)):
        return np.array([np.nan if blank else number(text, sign) for blank, text in zip(missing, texts, strict=True)])
    return np.array([text.strip() for text in texts])
