"""What people see while work goes on: one line with the time left, and lines worth keeping.

On a terminal a live progress bar; elsewhere (a log, CI) a plain line now and then. All of it goes
to stderr, so that stdout holds results alone.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

QUIET_S = 20.0  # between two plain lines, in seconds


class Reporter(Protocol):
    """Who is told how far the work is."""

    def setup(self, what: str, done: float, of: float) -> None:
        """A preparation advanced: downloading, converting, loading."""

    def plan(self, title: str, units: int) -> None:
        """The study will take so many units of work from here."""

    def advance(self, what: str, units: int) -> None:
        """Units of work were done."""

    def say(self, line: str) -> None:
        """A line worth keeping."""


class Lines:
    """A reporter for people."""

    def __init__(self, progress: Progress) -> None:
        """Write through `progress`."""
        self._progress = progress
        self._live = progress.console.is_terminal
        self._setup = progress.add_task("", total=None, visible=False)
        self._work = progress.add_task("", total=None, visible=False)
        self._title = self._preparing = ""
        self._spoke = time.monotonic()

    def setup(self, what: str, done: float, of: float) -> None:
        """A preparation advanced."""
        self._progress.update(
            self._setup, description=what, completed=done, total=of, visible=done < of
        )
        if not self._live and what != self._preparing:
            self.say(f"{what} …")
        self._preparing = what

    def plan(self, title: str, units: int) -> None:
        """The study will take so many units of work."""
        self._title = title
        self._progress.reset(self._work, total=units, description=title, visible=True)

    def advance(self, what: str, units: int) -> None:
        """Units of work were done; of a study that was not planned here nothing is shown."""
        if not self._title:
            return
        self._progress.update(self._work, advance=units, description=f"{self._title} · {what}")
        if not self._live and time.monotonic() - self._spoke > QUIET_S:
            task = self._progress.tasks[self._work]
            left = task.time_remaining
            minutes = f", {left / 60:.1f} minutes left" if left is not None else ""
            self.say(f"{self._title} · {what} · {task.percentage:.0f}%{minutes}")

    def say(self, line: str) -> None:
        """A line worth keeping."""
        self._spoke = time.monotonic()
        self._progress.console.print(line, markup=False, highlight=False)


@contextmanager
def reporter() -> Iterator[Lines]:
    """A reporter on stderr for the length of a `with` block."""
    console = Console(stderr=True, soft_wrap=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        report = Lines(progress)
        if console.is_terminal:
            report.setup("starting", 0, 1)  # torch alone takes seconds to import
        yield report
