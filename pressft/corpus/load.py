"""Which corpus a name means: a crawled folder, a built-in one, or a plain text file."""

from pathlib import Path

from pressft._assets import Progress
from pressft.corpus import dedup, invented
from pressft.corpus.format import (
    SPLITS,
    Corpus,
    in_memory,
    read,
    read_manifest,
    single,
    text_sha256,
)
from pressft.errors import DataError

WIKIPEDIA = "wikipedia"


def check(name: str) -> None:
    """Refuse a name that means no corpus, at once: nothing but a manifest is read.

    Raises:
        DataError: no such folder, or no corpus in it.
    """
    if name not in (invented.NAME, WIKIPEDIA) and not Path(name).is_file():
        read_manifest(Path(name))


def load_corpus(name: str, progress: Progress = lambda *_: None) -> Corpus:
    """The corpus called `name`, verified, with something in every split.

    Raises:
        DataError: as `format.read`; a file that is not UTF-8; a split without articles.
        MissingError: the built-in text cannot be fetched.
    """
    if name == invented.NAME:
        found = invented.corpus()
    elif name == WIKIPEDIA:
        from pressft.corpus import wikipedia

        found = wikipedia.corpus(progress)
    else:
        found = _of_file(Path(name)) if Path(name).is_file() else read(Path(name))
    for split in SPLITS:
        if not found.splits.part(split):
            raise DataError(
                f"corpus {name}: {len(found.articles)} articles leave none for the {split} split: "
                "more text is needed"
            )
    return found


def _of_file(path: Path) -> Corpus:
    """A text file's paragraphs, between blank lines, each an article."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: byte {error.start} cannot be read") from error
    text = "\n".join(line.rstrip() for line in lines)
    paragraphs = dict.fromkeys(part.strip("\n") for part in text.split("\n\n") if part.strip())
    articles = [single(f"file:///{text_sha256(part)}", part) for part in paragraphs]
    return in_memory(str(path), dedup.assign(articles, ()))
