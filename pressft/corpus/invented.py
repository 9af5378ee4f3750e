"""Press releases of a company that does not exist: text for trying things out, offline.

A seeded grammar makes them, the same on every machine; they contain no facts about the world.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pressft.corpus.format import Article, Corpus, in_memory, single

NAME = "invented"
N_STORIES = 120

_MODELS = ("Larch", "Tern", "Quill", "Ember", "Sorrel", "Pike", "Alder", "Wren")
_KINDS = ("ferry", "tram", "cargo bike", "delivery van", "rail car", "harbour tug")
_PLACES = ("Osthafen", "Brelin", "Kaldvik", "Port Amery", "Sankt Ilm", "Vellmore")
_PEOPLE = ("Ada Brandt", "Jonas Ferrow", "Mira Okonjo", "Tomas Lind", "Ruth Aldane")
_ROLES = ("head of design", "works manager", "chief engineer", "member of the board")
_OPENINGS = (
    "{company} has shown the new {model}, a {kind} built at the {place} works.",
    "The first {model} left the {place} works on Monday, {months} months after it was announced.",
    "The city of {place} has ordered {count} of the {kind} {model} from {company}.",
    "{company} will build the {kind} {model} in {place} from next spring.",
)
_MIDDLES = (
    "It carries {count} passengers and needs {share} percent less energy than the one before.",
    "The battery holds {count} kilowatt hours and is charged in {months} minutes.",
    "About {count} people work on it, {months} of them apprentices.",
    "Trials in {place} began in the autumn and ended without a fault.",
    "The doors open in {months} seconds, even in frost.",
    "Its frame is made of steel from {place}, {share} percent of it recycled.",
)
_QUOTES = (
    '"We wanted a {kind} that people in {place} are glad to see," said {person}, {role}.',
    '"The {model} is quiet, plain and easy to mend," said {person}, {role}.',
    '"After {months} months of work we know every screw of it," said {person}, {role}.',
)
_CLOSINGS = (
    "Deliveries start in {months} months.",
    "A second line for the {model} is planned in {place}.",
    "{company} expects to sell {count} a year.",
)


@dataclass(frozen=True, slots=True)
class Story:
    """One article of a newsroom: plain-text paragraphs, an aware time, a unique slug."""

    title: str
    paragraphs: tuple[str, ...]
    published: datetime
    slug: str
    tags: tuple[str, ...] = ()


def stories(n: int = N_STORIES, seed: int = 0) -> tuple[Story, ...]:
    """`n` releases of two to four paragraphs, a day apart."""
    source = random.Random(seed)
    return tuple(_story(source, number) for number in range(n))


def corpus() -> Corpus:
    """The stories as a corpus in memory, each its own group."""
    return in_memory(NAME, map(_article, stories()))


def _story(source: random.Random, number: int) -> Story:
    words = {
        "company": "Nordlicht Works",
        "model": source.choice(_MODELS),
        "kind": source.choice(_KINDS),
    }

    def sentence(forms: tuple[str, ...]) -> str:
        return source.choice(forms).format(
            **words,
            place=source.choice(_PLACES),
            person=source.choice(_PEOPLE),
            role=source.choice(_ROLES),
            count=source.randrange(20, 900),
            months=source.randrange(3, 60),
            share=source.randrange(5, 80),
        )

    paragraphs = [f"{sentence(_OPENINGS)} {sentence(_MIDDLES)}"]
    for _ in range(source.randrange(1, 3)):
        paragraphs.append(f"{sentence(_MIDDLES)} {sentence(_MIDDLES)} {sentence(_QUOTES)}")
    paragraphs.append(f"{sentence(_MIDDLES)} {sentence(_CLOSINGS)}")
    title = f"The {words['model']}, a {words['kind']} from Nordlicht Works, number {number + 1}"
    published = datetime(2024, 1, 1, 9, tzinfo=UTC) + timedelta(days=number)
    slug = f"{number + 1:03d}-{words['model'].lower()}"
    return Story(title, tuple(paragraphs), published, slug, (str(words["kind"]),))


def _article(story: Story) -> Article:
    url = f"https://newsroom.invalid/{story.slug}"
    text = "\n\n".join(story.paragraphs)
    when, tags = story.published, story.tags
    return single(url, text, title=story.title, published=when, language="en", tags=tags)
