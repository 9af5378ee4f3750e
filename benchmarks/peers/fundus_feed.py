"""The articles of a feed by fundus, with a parser written for these pages: a JSON line each."""

import json
import sys
from datetime import datetime
from urllib.parse import urlsplit

from fundus import Crawler, RSSFeed
from fundus.parser import ArticleBody, BaseParser, ParserProxy, attribute
from fundus.parser.utility import extract_article_body_with_selector, generic_date_parsing
from fundus.publishers.base_objects import Publisher, PublisherGroup
from lxml.cssselect import CSSSelector


class Parser(ParserProxy):
    """Of the newsroom on loopback."""

    class V1(BaseParser):
        """Its only layout."""

        @attribute
        def body(self) -> ArticleBody | None:
            """The paragraphs of the article."""
            paragraphs = CSSSelector("article > p:not(.date)")
            return extract_article_body_with_selector(self.precomputed.doc, paragraphs)

        @attribute
        def publishing_date(self) -> datetime | None:
            """As the page's head has it."""
            return generic_date_parsing(self.precomputed.meta.get("article:published_time"))

        @attribute
        def title(self) -> str | None:
            """The headline."""
            found = CSSSelector("article > h1")(self.precomputed.doc)
            return found[0].text if found else None


class Group(metaclass=PublisherGroup):
    """One newsroom."""

    default_language = "en"
    Loopback = Publisher(
        name="Loopback",
        domain=f"http://{urlsplit(sys.argv[1]).netloc}/",
        parser=Parser,
        sources=[RSSFeed(sys.argv[1])],
    )


for article in Crawler(Group, delay=0.0, threading=False).crawl():
    line = {"url": article.html.requested_url, "title": article.title, "text": str(article.body)}
    line["date"] = str(article.publishing_date)
    sys.stdout.write(f"{json.dumps(line)}\n")
