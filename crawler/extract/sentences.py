"""Sentences of a paragraph, English and German, cut where a full stop ends one; a pure function."""

import re

_BOUNDARY = re.compile(
    r"(?<=[.!?…])(?:[\"'”“’»«)\]]{0,2}) (?=[\"'“„‚»«(\[*¹²]{0,2}[A-ZÀ-ÖØ-Þ0-9])"  # noqa: RUF001
)
# No sentence ends in these: titles, initials, ordinals and shortenings before a name or number.
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|Dipl|Ing|Rev|St|Sen|Gen|Lt|Col|No|Nos|Nr|vs|Tel|Fax|Mio|Mrd|Std"
    r"|Abs|Art|Bd|bzw|ca|cf|e\.g|i\.e|approx|est|evtl|ggf|inkl|incl|max|min|zzgl|u\.a|z\.B|d\.h"
    r"|Fig|Abb|vol|Vol|p|pp|S|Jan|Feb|Aug|Sept?|Okt|Oct|Nov|Dez|Dec|Str|geb|gest|usw|sog)"
    r"|(?:^|[\s(.])[A-Za-z]|(?:^|\s)\d{1,2})\.$"
)


def split(paragraph: str) -> list[str]:
    """The sentences of a paragraph of single spaces: joined with spaces they are it again.

    Whether a full stop ends one depends on the words beside it alone, so that a paragraph that lost
    a sentence is cut as before.
    """
    sentences: list[str] = []
    start = 0
    for match in _BOUNDARY.finditer(paragraph):
        end = match.end() - 1
        if not _ABBREVIATION.search(paragraph[max(start, end - 12) : end]):
            sentences.append(paragraph[start:end])
            start = match.end()
    return [*sentences, paragraph[start:]]
