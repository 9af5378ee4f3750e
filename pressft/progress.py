"""Progress on stderr: one line with the time left, and messages.

On a terminal it is a live progress bar; elsewhere (a log, CI) a plain line from time to time.
Nothing goes to stdout, which is for results only.
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
    """Receives progress and messages."""

    def setup(self, what: str, done: float, of: float) -> None:
        """Show a preparation (downloading, converting, loading) with `done` of `of` completed."""

    def plan(self, title: str, units: int) -> None:
        """Begin work that will take `units` units in all."""

    def advance(self, what: str, units: int) -> None:
        """Count `units` units of work as done."""

    def say(self, line: str) -> None:
        """Print a message."""


class Lines:
    """A reporter that writes through a progress display of rich."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._live = progress.console.is_terminal
        self._setup = progress.add_task("", total=None, visible=False)
        self._work = progress.add_task("", total=None, visible=False)
        self._title = self._preparing = ""
        self._spoke = time.monotonic()

    def setup(self, what: str, done: float, of: float) -> None:
        """Show a preparation with `done` of `of` completed."""
        self._progress.update(
            self._setup, description=what, completed=done, total=of, visible=done < of
        )
        if not self._live and what != self._preparing:
            self.say(f"{what} …")
        self._preparing = what

    def plan(self, title: str, units: int) -> None:
        """Begin work that will take `units` units in all."""
        self._title = title
        self._progress.reset(self._work, total=units, description=title, visible=True)

    def advance(self, what: str, units: int) -> None:
        """Count units of work as done; without an earlier `plan` nothing is shown."""
        if not self._title:
            return
        self._progress.update(self._work, advance=units, description=f"{self._title} · {what}")
        if not self._live and time.monotonic() - self._spoke > QUIET_S:
            task = self._progress.tasks[self._work]
            left = task.time_remaining
            minutes = f", {left / 60:.1f} minutes left" if left is not None else ""
            self.say(f"{self._title} · {what} · {task.percentage:.0f}%{minutes}")

    def say(self, line: str) -> None:
        """Print a message."""
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
