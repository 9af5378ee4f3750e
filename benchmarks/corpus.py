"""A corpus from its files to training blocks: seconds and memory of each stage.

A corpus of so many megabytes of text, in words of the invented releases, is written as one shard
by a process of its own. Then, in another: reading with every check, splitting with the
fingerprint, tokenising all of it, packing, and taking the blocks of a trial of TAKEN tokens. Told
are seconds, megabytes of text a second, and the peak of memory as a multiple of the text.

    python benchmarks/corpus.py --megabytes 1000 --model smollm2-135m
"""

import argparse
import hashlib
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from step import quiet, resident
from transformers import AutoTokenizer

from pressft.corpus import format as corpus
from pressft.corpus import invented
from pressft.corpus.format import Article, Shard
from pressft.model import files
from pressft.model.tokens import separators, tokenize
from pressft.training import packing

TAKEN, BLOCK = 100_000, 256
WORDS = 400  # of an article, about 2.5 kB
T = TypeVar("T")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--model", default="tiny-llama")
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    size = 1e6 * asked.megabytes
    with tempfile.TemporaryDirectory() as name, alone() as writer:
        writer.submit(write, Path(name), int(size)).result()
        rounds = []
        for _ in range(asked.rounds):
            with alone() as process:
                found, counts = process.submit(stages, Path(name), asked.model).result()
                rounds.append(found)
    for what in rounds[0]:
        seconds = statistics.median(found[what][0] for found in rounds)
        peak = max(found[what][1] for found in rounds)
        print(
            f"{what}: {seconds:.1f} s, {size / 1e6 / seconds:,.0f} MB/s; peak {peak / 1e6:,.0f} "
            f"MB, ratio {peak / size:.2f} of text"
        )
    print(counts)


def alone() -> ProcessPoolExecutor:
    """A process of its own, with nothing of ours in its memory."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def stages(folder: Path, model: str) -> tuple[dict[str, tuple[float, int]], str]:
    """Seconds and peak of memory of each stage, the stages before it held; how much there is."""
    tokenizer = AutoTokenizer.from_pretrained(files.folder(model, quiet))
    start = resident("VmRSS")
    found: dict[str, tuple[float, int]] = {}

    def timed(what: str, run: Callable[[], T]) -> T:
        Path("/proc/self/clear_refs").write_text("5")  # forget earlier peaks
        began = time.perf_counter()
        made = run()
        found[what] = (time.perf_counter() - began, resident("VmHWM") - start)
        return made

    read = timed("read and verified", lambda: corpus.read(folder))
    texts = [article.text for article in read.articles]
    timed("split, fingerprint", lambda: (read.splits, read.fingerprint))
    documents = timed("tokenised", lambda: tokenize(texts, tokenizer))
    between = separators(tokenizer)
    packed = timed("packed", lambda: packing.pack(documents, BLOCK, between))
    timed("blocks of a trial", lambda: packing.taken(packed, TAKEN // BLOCK, 0))
    tokens = sum(len(document.ids) for document in documents)
    return found, f"{len(texts):,} articles, {tokens:,} tokens"


def write(folder: Path, size: int) -> None:
    """A corpus of at least `size` characters of text."""
    path = folder / "articles-00000.parquet"
    articles = list(written(size))
    corpus.write_table(articles, path)
    with path.open("rb") as file:
        shard = Shard(path.name, len(articles), hashlib.file_digest(file, "sha256").hexdigest())
    (folder / corpus.MANIFEST).write_text(corpus.manifest_text([shard]))


def written(size: int) -> Iterator[Article]:
    """Articles of random words, paragraphs of 80, together at least `size` characters."""
    rng = random.Random(0)
    found = (text for story in invented.stories() for text in story.paragraphs)
    words = sorted({word for text in found for word in text.split() if word.isalpha()})
    number = 0
    while size > 0:
        lines = (" ".join(rng.choices(words, k=80)) for _ in range(WORDS // 80))
        article = corpus.single(f"http://newsroom.example/{number}", "\n\n".join(lines))
        yield article
        number, size = number + 1, size - len(article.text)


if __name__ == "__main__":
    main()
