"""Errors caused by the user or the environment, each with its exit code.

    PressftError
    ├── UsageError        2   an argument that is unknown or out of range
    ├── RefusedError      3   a request that would break a promise (a study's definition changed)
    ├── DataError         4   a feed, page or corpus that cannot be used
    └── MissingError      5   the machine lacks something (a model, a package, space)

Each message is one line: what was found, and what would work. Any other exception is a bug.
"""

import difflib
from collections.abc import Iterable


def meant(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` if a known name is close to the given one, else ""."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class PressftError(Exception):
    """An error caused by the user or the environment, to be shown as one line."""

    exit_code = 1


class UsageError(PressftError):
    """An argument is unknown or out of range."""

    exit_code = 2


class RefusedError(PressftError):
    """The request would break a promise made earlier."""

    exit_code = 3


class DataError(PressftError):
    """A feed, page, text or corpus cannot be used."""

    exit_code = 4


class MissingError(PressftError):
    """The machine lacks something: a model, a package, space, a writable folder."""

    exit_code = 5
