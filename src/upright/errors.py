"""The errors that a user can cause: each message is one sentence with what is wrong, where, and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST_MESSAGE = 2_000  # characters
LONGEST_NAME = 1_000
LONGEST_VALUE = 200


class UprightError(Exception):
    """A mistake that the message explains; the command line prints it and exits with status 2.

    The message is one line whatever it quotes: nothing in it moves a terminal's cursor, and its middle gives way
    where it is very long.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))  # Gymnasium raises a worker's error again with that error as message


class SettingError(UprightError):
    """A setting is unknown, out of its range, or cannot be combined with another."""


class SpaceError(UprightError):
    """An observation or action space that this family of algorithms cannot learn on."""


class Misfit(UprightError, ValueError):
    """Arrays that do not fit: an observation or a mask a policy, parameters a network, a transition a memory."""


class EnvironmentFault(UprightError):
    """An environment could not be made, raised, or returned something that it must not."""


class EpisodesLost(EnvironmentFault):
    """The episodes that were running cannot be taken up again, because the environment does not repeat itself."""


class Diverged(UprightError):
    """The loss, or what came of it, is no longer a finite number, so neither is what was learned."""

    def __init__(self, what: str, value: float) -> None:
        super().__init__(
            f"{what} is {value}, so nothing more can be learned: lower learning_rate, clip the gradient with "
            "max_grad_norm, or scale the rewards down with a wrapper."
        )


class RunError(UprightError):
    """A run folder or a saved policy that cannot be written or read."""


class FolderInUse(RunError):
    """Another process trains in this folder, and holds its lock."""


class MissingExtra(UprightError):
    """An optional dependency is not installed; the message holds the `pip install` line."""


def wrong(name: str, value: Any, expected: str) -> SettingError:
    """Return the error for an argument that is not what it has to be, such as "a path"."""
    return SettingError(f"{name} is {shown(value)}, but it has to be {expected}.")


def shown(value: Any) -> str:
    """A value as Python writes it; the name of its type where that is long or cannot be written, and of a function."""
    try:
        text = "" if callable(value) and not isinstance(value, type) else repr(value)
    except Exception:  # of an integer with thousands of digits, or of what is nested too deeply
        text = ""
    return text if 0 < len(text) <= LONGEST_VALUE else f"a {type(value).__name__}"


def one_line(text: str) -> str:
    """A text as one printable line that moves no cursor, without its middle where it is very long."""
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[: LONGEST_MESSAGE // 2]} … {text[-LONGEST_MESSAGE // 2 :]}"
    if text.isprintable():
        return text
    text = " ".join(text.split("\n"))
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean "…"?` with the nearest of the known names, or nothing when none is near."""
    # To compare takes time with the square of the length, and what is that long was no slip of the finger.
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6) if len(name) <= LONGEST_NAME else []
    return f" Did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
