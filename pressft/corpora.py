"""Which corpus a name means: a crawled folder, or the built-in one of invented releases."""

from pathlib import Path

from pressft import corpus, invented
from pressft.corpus import Corpus
from pressft.errors import DataError


def find(name: str) -> Corpus:
    """The corpus called `name`, verified, with something in every split.

    Raises:
        DataError: as `corpus.read`; a split without articles.
    """
    found = invented.corpus() if name == invented.NAME else corpus.read(Path(name))
    for split in corpus.SPLITS:
        if not found.splits.part(split):
            raise DataError(
                f"corpus {name}: {len(found.articles)} articles leave none for the {split} split: "
                "crawl more"
            )
    return found
