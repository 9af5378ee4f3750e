"""What a crawl came to, as a table at a terminal: nothing is drawn where nobody looks.

Left to others: the progress line (`progress`), the last line and the exit code (`commands.crawl`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

_PAGES = ("found", "known", "fetched", "kept", "dropped", "failed")
_BY_REASON = ("dropped", "failed", "paragraphs")


def table(stats: Mapping[str, Any]) -> None:
    """Print the statistics under `newsroom/`: pages, then reasons, then paragraphs left out."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return
    drawn = Table(title="pages and paragraphs", title_justify="left", show_header=False)
    drawn.add_column()
    drawn.add_column(justify="right")
    for name in _PAGES:
        if f"newsroom/{name}" in stats:
            drawn.add_row(name, f"{stats[f'newsroom/{name}']:,}")
    for kind in _BY_REASON:
        drawn.add_section()
        found = {n: c for n, c in stats.items() if n.startswith(f"newsroom/{kind}/")}
        for name, count in sorted(found.items(), key=lambda item: -item[1]):
            reason = name.split("/", 2)[2]
            drawn.add_row(f"{kind}: {reason}", f"{count:,}")
    console.print(drawn)


@contextmanager
def counting(total: int) -> Iterator[Callable[[], None]]:
    """A progress line over `total` pages; call what it gives after each."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as line:
        task = line.add_task("reading stored pages", total=total)
        yield lambda: line.advance(task)
