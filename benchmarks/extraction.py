"""The crawler's extraction on annotated pages, compared with trafilatura alone.

FOLDER holds `html/ID.html.gz` and `ground-truth.json` (ID to `articleBody` and `url`), the layout
of Scrapinghub's article-extraction-benchmark. Its measure: words are runs of `\\w`, a text is the
multiset of its 4-word shingles; per page true positives, false positives and false negatives are
divided by their sum; precision and recall are averaged over the pages that define them, and F1 is
the harmonic mean of the averages. Cleaning is set to keep everything. Seconds are those of one
core, with the ways alternating. Without FOLDER, one small page of our own is used.

    python benchmarks/extraction.py FOLDER --rounds 3
"""

import argparse
import gzip
import json
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import trafilatura

from crawler.extract.page import extract

SHINGLE_WORDS = 4
SENTENCE = "The {} crossed the river at noon and nobody on the bridge had seen one before."
THINGS = ("ferry", "balloon", "orchestra", "tramway")


@dataclass(frozen=True, slots=True)
class Case:
    """A page and what a person says is its article."""

    html: str
    url: str
    article: str


def ours(case: Case) -> str:
    """The paragraphs that the crawler finds, before cleaning."""
    return "\n".join(extract(case.html, case.url).paragraphs)


def plain(case: Case) -> str:
    """trafilatura as it comes."""
    return trafilatura.extract(case.html, url=case.url, include_comments=False) or ""


def precise(case: Case) -> str:
    """trafilatura, told to prefer precision."""
    found = trafilatura.extract(
        case.html, url=case.url, include_comments=False, favor_precision=True
    )
    return found or ""


WAYS: Mapping[str, Callable[[Case], str]] = {
    "crawler": ours,
    "trafilatura": plain,
    "trafilatura, precision": precise,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if asked.folder and not (asked.folder / "ground-truth.json").is_file():
        print(f"skipped: {asked.folder} holds no ground-truth.json", file=sys.stderr)
        return
    cases = read(asked.folder) if asked.folder else [own()]
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    found: dict[str, list[str]] = {}
    for turn in range(asked.rounds):
        for name in sorted(WAYS, reverse=bool(turn % 2)):
            started = time.process_time()
            found[name] = [WAYS[name](case) for case in cases]
            seconds[name].append(time.process_time() - started)
    print(f"{len(cases)} pages, {asked.rounds} rounds, cleaning keeps everything")
    rates = {name: len(cases) / statistics.median(times) for name, times in seconds.items()}
    for name in WAYS:
        precision, recall, f1 = score(cases, found[name])
        figures = f"precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}"
        print(f"{name}: {figures}, {rates[name]:.1f} pages a second and core")
    print(f"speed, crawler to trafilatura: ratio {rates['crawler'] / rates['trafilatura']:.2f}")


def read(folder: Path) -> list[Case]:
    """The annotated pages of a folder."""
    truth = json.loads((folder / "ground-truth.json").read_text(encoding="utf-8"))
    cases = []
    for name, values in truth.items():
        packed = (folder / "html" / f"{name}.html.gz").read_bytes()
        html = gzip.decompress(packed).decode("utf-8", "replace")
        cases.append(Case(html, values.get("url", ""), values["articleBody"]))
    return cases


def own() -> Case:
    """A page of our own making, for where there are no others."""
    texts = [" ".join(SENTENCE.format(thing) for thing in THINGS[i:]) for i in range(3)]
    body = "".join(f"<p>{text}</p>" for text in texts)
    menu = "<nav><a href='/'>Home</a></nav>"
    html = f"<html><body>{menu}<article>{body}</article><footer>Imprint</footer></body></html>"
    return Case(html, "https://press.example/news/1", "\n".join(texts))


def score(cases: list[Case], found: list[str]) -> tuple[float, float, float]:
    """Precision, recall and F1, 0 to 1."""
    precisions, recalls = [], []
    for case, text in zip(cases, found, strict=True):
        true, ours = shingles(case.article), shingles(text)
        hits = (true & ours).total()
        if ours:
            precisions.append(hits / ours.total())
        if true:
            recalls.append(hits / true.total())
    precision = statistics.fmean(precisions) if precisions else 0.0
    recall = statistics.fmean(recalls) if recalls else 0.0
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """The multiset of word 4-grams; a shorter text is one shingle, none without words."""
    words = re.findall(r"\w+", text)
    starts = range(max(1, len(words) - SHINGLE_WORDS + 1)) if words else ()
    return Counter(tuple(words[i : i + SHINGLE_WORDS]) for i in starts)


if __name__ == "__main__":
    main()
