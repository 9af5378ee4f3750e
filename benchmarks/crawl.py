"""The cost of crawling newsrooms of several sizes on loopback, by stage and against other programs.

Each size is crawled in turn by a `scrapy crawl press` of its own, without a delay. Printed are
pages a second and core (CPU of the crawl and its parser, not of the server), pages a second, and
the peak of the larger of the two processes; then, from one size to the next, what a page costs
beyond the start of the command: linear cost is a ratio of 1; then the stages of the largest crawl,
over its stored pages in this process. With `--peer` the programs in `benchmarks/peers` read a feed
of PEER_ARTICLES on one page, each with the interpreter given for it, in turn with ours:

    python benchmarks/crawl.py --articles 100 1000 10000 --rounds 1 \\
        --peer trafilatura=.venv/bin/python --peer newsplease=OTHER/bin/python
"""

import argparse
import itertools
import json
import multiprocessing
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from crawler import export, store
from crawler.export import assign
from crawler.extract.article import build
from crawler.extract.clean import clean
from crawler.extract.language import language_of
from crawler.extract.page import extract
from pressft.corpus import invented
from pressft.corpus.format import write_table
from pressft.corpus.invented import Story
from pressft.demo import newsroom

HERE = Path(__file__).resolve().parent
PEER_ARTICLES = 1000
# A small process of its own, because the peak of a child is at least that of its parent.
LAUNCHER = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[2:], stdout=int(sys.argv[1]), stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
if status:
    sys.exit(f"{process.args} ended with {os.waitstatus_to_exitcode(status)}")
seconds = time.perf_counter() - began
print(json.dumps([seconds, usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss]))
"""
LOCAL = ("-s", "PRESS_ALLOW_PRIVATE=True", "-s", "DOWNLOAD_DELAY=0")


@dataclass(frozen=True)
class Cost:
    """What a command took: wall seconds, CPU seconds, and peak bytes of its largest process."""

    seconds: float
    cpu_s: float
    peak_bytes: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--articles", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        sizes(Path(name), sorted({1, *asked.articles}), asked.rounds)
        if asked.peer:
            peers(Path(name), dict(peer.split("=", 1) for peer in asked.peer), asked.rounds)


def sizes(folder: Path, counts: Sequence[int], rounds: int) -> None:
    """Crawl newsrooms of so many articles; print what each took and what one more page costs."""
    costs: dict[int, list[Cost]] = {n: [] for n in counts}
    for turn, n in itertools.product(range(rounds), counts):
        with running(n) as feed:
            costs[n].append(crawled(feed, folder / f"{n}-{turn}", n))
    middle = {n: statistics.median(cost.cpu_s for cost in costs[n]) for n in counts}
    for n in counts:
        seconds = statistics.median(cost.seconds for cost in costs[n])
        peak = max(cost.peak_bytes for cost in costs[n])
        print(
            f"{n} articles: {n / middle[n]:.1f} pages a second and core, {n / seconds:.1f} a "
            f"second, {seconds:.1f} s, peak {peak / 1e6:.0f} MB"
        )
    pairs = list(itertools.pairwise(counts))
    each = [(middle[b] - middle[a]) / (b - a) for a, b in pairs]
    for (a, b), cost in zip(pairs, each, strict=True):
        ratio = cost / each[0]
        print(f"from {a} to {b}: {1000 * cost:.1f} ms of CPU a page more, ratio {ratio:.2f}")
    stages(folder / f"{counts[-1]}-0", folder / "stages")


def stages(corpus: Path, folder: Path) -> None:
    """Print the speed of each stage over the stored pages of a corpus."""
    folder.mkdir()
    pages = list(store.Store(corpus).pages(set()))[:PEER_ARTICLES]
    read = [extract(page.html, page.entry.url, None) for page in pages]
    cleaned = [clean(one.paragraphs) for one in read]
    articles = [one.article for one in map(build, pages) if one.article]
    grouped = assign(articles, ())
    work: dict[str, Callable[[], object]] = {
        "extraction": lambda: [extract(page.html, page.entry.url, None) for page in pages],
        "cleaning": lambda: [clean(one.paragraphs) for one in read],
        "language": lambda: [language_of(one.text) for one in cleaned],
        "near duplicates": lambda: assign(articles, ()),
        "writing the shard": lambda: write_table(grouped, folder / "shard"),
        "all of the export": lambda: export.export(folder, articles),
    }
    for what, run in work.items():
        began = time.process_time()
        run()
        seconds = time.process_time() - began
        print(f"{what}: {len(pages) / seconds:,.0f} pages a second and core")


def peers(folder: Path, pythons: dict[str, str], rounds: int) -> None:
    """Print what ours and each peer take for the same feed of one page, in turn."""
    costs: dict[str, list[Cost]] = {name: [] for name in ("pressft", *pythons)}
    with running(PEER_ARTICLES, page=PEER_ARTICLES) as feed:
        for turn in range(rounds):
            for name in list(costs)[:: -1 if turn % 2 else 1]:
                if name == "pressft":
                    costs[name].append(crawled(feed, folder / f"peer-{turn}", PEER_ARTICLES))
                    continue
                command = [pythons[name], str(HERE / "peers" / f"{name}_feed.py"), feed]
                lines = folder / f"{name}.jsonl"
                with lines.open("w") as out:
                    costs[name].append(spent(command, out.fileno()))
                if (n := len(lines.read_text().splitlines())) != PEER_ARTICLES:
                    raise SystemExit(f"{name} wrote {n} articles of {PEER_ARTICLES}")
    ours = statistics.median(cost.cpu_s for cost in costs["pressft"])
    for name, all_of in costs.items():
        cpu = statistics.median(cost.cpu_s for cost in all_of)
        seconds = statistics.median(cost.seconds for cost in all_of)
        peak = max(cost.peak_bytes for cost in all_of) / 1e6
        print(
            f"{name}: {PEER_ARTICLES} articles, {PEER_ARTICLES / cpu:.0f} a second and core, "
            f"{seconds:.1f} s, peak {peak:.0f} MB; CPU against ours, ratio {cpu / ours:.2f}"
        )


def stories(n: int) -> tuple[Story, ...]:
    """Releases of 15 to 40 sentences in words of the invented stories, no two alike."""
    rng = random.Random(n)
    texts = (text for story in invented.stories() for text in story.paragraphs)
    words = sorted({word for text in texts for word in text.split() if word.isalpha()})

    def sentence() -> str:
        return " ".join(rng.choices(words, k=rng.randint(8, 20))).capitalize() + "."

    lines = (" ".join(sentence() for _ in range(rng.randint(15, 40))) for _ in range(n))
    return newsroom.stories_from_lines("\n".join(lines))


@contextmanager
def running(n: int, page: int = newsroom.PAGE_ITEMS) -> Iterator[str]:
    """A newsroom of `n` stories in a process of its own; the address of its feed."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=_serve, args=(n, page, theirs), daemon=True)
    server.start()
    try:
        yield ours.recv()
    finally:
        server.terminate()
        server.join()


def _serve(n: int, page: int, caller: Connection) -> None:
    newsroom.PAGE_ITEMS = page
    with newsroom.serve(stories(n), port=0) as running:
        caller.send(running.feed_url)
        time.sleep(3600)


def crawled(feed: str, corpus: Path, n: int) -> Cost:
    """The cost of a crawl of `n` articles into a new corpus."""
    command = [sys.executable, "-m", "scrapy", "crawl", "press", "-a", f"feed={feed}"]
    cost = spent([*command, "-a", f"corpus={corpus}", *LOCAL])
    if (found := len(export.existing(corpus))) != n:
        raise SystemExit(f"{found} articles of {n} in {corpus}")
    return cost


def spent(command: Iterable[str], out: int = subprocess.DEVNULL) -> Cost:
    """The cost of a command, run to its end, and of its processes."""
    line = [sys.executable, "-c", LAUNCHER, str(out), *command]
    done = subprocess.run(
        line, cwd=HERE.parent, pass_fds=[out] if out > 0 else [], capture_output=True, check=True
    )
    return Cost(*json.loads(done.stdout))


if __name__ == "__main__":
    main()
