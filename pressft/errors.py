"""What can go wrong because of the outside world, each with its exit code.

    PressftError
    ├── UsageError        2   an argument that names nothing we know
    ├── RefusedError      3   asked for, but against a promise (a study with another definition)
    ├── DataError         4   a feed, page or corpus that cannot be used
    └── MissingError      5   the machine lacks something (a model, a package, space)

Each message is one line: what was seen, and what would work. A bug is any other exception.
"""

import difflib
from collections.abc import Iterable


def meant(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` where a known name is close to the given one, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class PressftError(Exception):
    """A mistake of the user's or the world's, to be shown as one line."""

    exit_code = 1


class UsageError(PressftError):
    """An argument names nothing we know."""

    exit_code = 2


class RefusedError(PressftError):
    """The request would break a promise already given."""

    exit_code = 3


class DataError(PressftError):
    """A feed, page, text or corpus cannot be used."""

    exit_code = 4


class MissingError(PressftError):
    """The machine lacks something: a model, a package, space, a writable folder."""

    exit_code = 5
