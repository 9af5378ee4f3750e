"""Articles built from stored pages in worker processes: no page can hold up or end a crawl."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable

from crawler.extract.article import Demands, Made, build
from crawler.sandbox import OverLimit, Workers
from crawler.store import StoredPage


async def built(workers: Workers, page: StoredPage, demands: Demands) -> Made:
    """What became of a page; one over the limits, or that breaks a parser, is dropped."""
    try:
        return await workers.run(build, page, demands)
    except OverLimit as error:
        return Made(page.id, None, str(error))
    except Exception as error:  # whatever a parser makes of bytes from the web
        return Made(page.id, None, f"unreadable ({type(error).__name__})")


async def built_all(
    workers: Workers, pages: Iterable[StoredPage], demands: Demands, ahead: int = 4
) -> AsyncIterator[tuple[StoredPage, Made]]:
    """What became of each page, in their order, with no more than `ahead` of them in memory."""
    waiting: deque[tuple[StoredPage, asyncio.Task[Made]]] = deque()
    for page in pages:
        waiting.append((page, asyncio.ensure_future(built(workers, page, demands))))
        if len(waiting) >= ahead:
            first, task = waiting.popleft()
            yield first, await task
    for first, task in waiting:
        yield first, await task
