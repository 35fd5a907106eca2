"""Mistakes of the user's in words: one line that names the option and says the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from sdegen.config.compose import CONF
from sdegen.core.errors import NO_MEMORY, UserError

WIDEST = 400
"""Characters of a line that tells a mistake: it may repeat a value of any length."""

SAID = (
    (r"Could not find '([^']+)'", "{0}: no such configuration"),
    (
        r"Interpolation key '([^']+)' not found.*full_key: (\S+)",
        "{1}: is that of {0}, which does not go with what is chosen here: give {1}=…",
    ),
    (r"Could not append to config[^']*'([^']+)'", "{0}: exists already, drop the +"),
    (r"Multiple values for ([^\s.]+)\.", "{0}: is chosen already, drop the +"),
    (r"^(\S+) appears more than once", "{0}: is chosen already, drop the +"),
    (r"Missing mandatory value: .*full_key: (\S+)", "{0}: is missing: give {0}=…"),
    (r"Could not delete (?:from config\. )?'([^']+)'", "~{0}: there is none to leave out"),
    (r"Could not delete from config\. The value of '([^']+)' is (.*) and not", "~{0}: has another value, {1}"),
    (r"Override (\S+) looks like a config group", "{0}: only a group takes an @"),
    (r"^(.*?)\s+full_key: (\S+)", "{1}: {0}"),
)
"""What Hydra and OmegaConf say, and what is said in its place."""


def plainly(text: str, cause: str, known: Callable[[], Sequence[str]]) -> str:
    """What Hydra or OmegaConf said, in one line.

    Args:
        text: the message.
        cause: the message of the error behind it.
        known: gives every option and group there is, by its full path.
    """
    pattern = r"Could not find '([\w/]+)/([^/']+)'\s+Available options in '[^']*':\n((?:\s*\t\S+\n)*)"
    if found := re.search(pattern, text):
        group, option, available = found[1], found[2], found[3].split()
        return f"{group}={option}: no such option; {_nearest(option, available, f'{group}=')}"
    if found := re.search(r"Could not override '([^']+)'", text):
        # Of a dictionary, what in it is wrong.
        inner = re.search(rf"full_key: ({re.escape(found[1])}\S+)", cause)
        return _no_option((inner or found)[1].split("@")[0], known)
    for said, words in SAID:
        if found := re.search(said, text, re.DOTALL):
            return " ".join(words.format(*found.groups()).split())
    if found := re.search(r"Error merging override (.*)", text, re.DOTALL):
        return " ".join(f"{found[1]}: {cause.partition('full_key')[0]}".split())
    return " ".join(text.split())


def _no_option(key: str, known: Callable[[], Sequence[str]]) -> str:
    """One line for an option that what is chosen does not have."""
    group, _, option = key.partition(".")
    if owners := [path.stem for path in sorted((CONF / group).glob("*.yaml")) if option and _names(path, option)]:
        others = " and others have" if len(owners) > 3 else " have" if len(owners) > 1 else " has"
        named = ", ".join(f"{group}={owner}" for owner in owners[:3])
        return f"{key}: no such option of the {group} chosen; {named}{others} it"
    nearest = _nearest(key, known(), "")
    if f"did you mean {key}?" == nearest:
        return f"{key}: does not go with what is chosen here; --cfg job shows all that does"
    return f"{key}: no such option; {nearest}"


def unreadable(override: str) -> str:
    """One line for an argument outside of Hydra's grammar."""
    key = override.partition("=")[0].lstrip("+~")
    if "/" in key and "." in key:
        return f"{override}: / is for groups, and . for their options: try {key.replace('/', '.')}="
    shown = override if override.strip() else repr(override)
    return f"{shown}: cannot be read; the form is option=value, and lists are written [1,2]"


def short_of_memory(error: Exception) -> UserError | None:
    """One line with the options that ask for memory, where that is what went wrong."""
    text = str(error)
    if not (isinstance(error, MemoryError) or NO_MEMORY.search(text)):
        return None
    asked = re.search(r"[\d.]+ ?(?:bytes|[KMGTP]i?B)", text)
    most = f", {asked[0]} were asked for" if asked else ""
    return UserError(
        f"out of memory{most}: try a smaller trainer.batch_size, times.chunk, sampler.steps, count or batch_size"
    )


def told(message: str) -> str:
    """A message whose lines are no wider than :data:`WIDEST`: of what is too wide, the two ends."""
    half = WIDEST // 2 - 2
    return "\n".join(
        line if len(line) <= WIDEST else f"{line[:half]} … {line[-half:]}" for line in message.splitlines()
    )


def _nearest(word: str, choices: Sequence[str], prefix: str) -> str:
    choices = list(dict.fromkeys(choices))
    same = [choice for choice in choices if choice.rpartition(".")[2] == word.rpartition(".")[2]]
    close = same[:3] or difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(prefix + choice for choice in close)}?"
    return f"choose from {', '.join(sorted(choices))}" if len(choices) < 30 else "--cfg job shows all there are"


def _names(path: Path, option: str) -> bool:
    """Whether a YAML file has an option."""
    return any(line.startswith(f"{option}:") for line in path.read_text().splitlines())
