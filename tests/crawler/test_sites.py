# ruff: noqa: E501 - pages as their generators write them
"""Sites as static site generators write them: every item, with the right title and date.

The pages are ours, in the shapes of themes for Hugo, Jekyll, Docusaurus and Eleventy.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hostile import HTML, Host, Pieces, answer, serve
from loopback import LOOPBACK, Crawl, scrapy, write_stories
from test_crawl import articles_in

from pressft.corpus.format import Article
from pressft.corpus.invented import Story

N_POSTS = 12
XML = "Content-Type: application/xml"
DATES = [datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=17 * n) for n in range(N_POSTS)]
TITLES = [
    "Release 4.2 & what is new",
    "Generics<T> in twenty minutes",
    "“Quotes” — and dashes",
    "Grüße aus München",
    "What's up?",
    "10% faster: a study",
]


def posts(seed: int = 0) -> list[Story]:
    stories = write_stories(N_POSTS, seed)
    return [
        Story(f"{TITLES[n % 6]} ({n})", story.paragraphs, DATES[n], f"post-{n}", story.tags)
        for n, story in enumerate(stories)
    ]


def paragraphs(post: Story) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in post.paragraphs)


def hugo(post: Story) -> str:
    """PaperMod's shape: the date in a span with a title, JSON-LD, the site's name in the title."""
    return f"""<!DOCTYPE html><html lang="en" dir="auto"><head><meta charset="utf-8">
<title>{escape(post.title)} | My Site</title><meta name="description" content="About it">
<meta property="og:title" content="{escape(post.title)}"><meta property="og:type" content="article">
<meta property="article:published_time" content="{post.published.isoformat()}">
<meta property="article:modified_time" content="2025-06-01T00:00:00Z"></head>
<body class="list"><header class="header"><nav class="nav"><div class="logo"><a href="/">My Site</a>
</div><ul id="menu"><li><a href="/posts">Posts</a></li></ul></nav></header><main class="main">
<article class="post-single"><header class="post-header"><h1 class="post-title">
{escape(post.title)}</h1><div class="post-meta"><span title="{post.published}">
{post.published:%B %d, %Y}</span> · 2 min · Me</div></header>
<div class="post-content">{paragraphs(post)}</div><footer class="post-footer"><nav class="paginav">
<a class="prev" href="/posts/x/"><span class="title">« Prev</span><span>Another post</span></a>
</nav></footer></article></main><footer class="footer"><span>© 2025 My Site</span></footer></body></html>"""


def jekyll(post: Story) -> str:
    """Minima's shape: microdata, a site header with an h1 of its own."""
    return f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">
<title>{escape(post.title)} | Your awesome title</title></head><body>
<header class="site-header"><div class="wrapper"><h1><a class="site-title" href="/">Your awesome
title</a></h1></div></header><main class="page-content" aria-label="Content"><div class="wrapper">
<article class="post h-entry" itemscope itemtype="http://schema.org/BlogPosting">
<header class="post-header"><h1 class="post-title p-name" itemprop="name headline">
{escape(post.title)}</h1><p class="post-meta"><time class="dt-published" itemprop="datePublished"
datetime="{post.published.isoformat()}">{post.published:%b %d, %Y}</time></p></header>
<div class="post-content e-content" itemprop="articleBody">{paragraphs(post)}</div>
<a class="u-url" href="/{post.slug}" hidden></a></article></div></main></body></html>"""


def docusaurus(post: Story) -> str:
    """A blog post: h1 in a header, a time element, recent posts in a sidebar."""
    recent = "".join(f'<li><a href="/blog/x{n}">Recent post {n}</a></li>' for n in range(5))
    return f"""<!doctype html><html lang="en" dir="ltr" class="blog-wrapper"><head>
<meta charset="UTF-8"><title data-rh="true">{escape(post.title)} | My Project</title>
<meta data-rh="true" property="og:title" content="{escape(post.title)} | My Project"></head>
<body><div id="__docusaurus"><nav class="navbar"><a href="/">My Project</a></nav>
<div class="main-wrapper"><div class="row"><aside class="col col--3"><nav><div>Recent posts</div>
<ul>{recent}</ul></nav></aside><main class="col col--7"><article><header>
<h1 class="title_f1Hy">{escape(post.title)}</h1><div class="margin-vert--md">
<time datetime="{post.published:%Y-%m-%dT%H:%M:%S.000Z}">{post.published:%B %d, %Y}</time> · 2 min read
</div></header><div id="__blog-post-container" class="markdown">{paragraphs(post)}</div>
<footer><b>Tags:</b><ul><li><a href="/tags/x">x</a></li></ul></footer></article>
<nav class="pagination-nav"><a href="/blog/next">Older post</a></nav></main></div></div></div>
</body></html>"""


def eleventy(post: Story) -> str:
    """The base blog's shape: h1 and metadata list in main, no article element."""
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>{escape(post.title)}</title></head><body><a href="#main" class="visually-hidden">Skip</a>
<header><a href="/" class="home-link">Blog Title</a><nav><ul class="nav"><li><a href="/blog/">
Archive</a></li></ul></nav></header><main id="main"><h1>{escape(post.title)}</h1>
<ul class="post-metadata"><li><time datetime="{post.published:%Y-%m-%d}">
{post.published:%d %B %Y}</time></li><li><a href="/tags/x/" class="post-tag">x</a></li></ul>
{paragraphs(post)}<ul class="links-nextprev"><li><a href="/blog/y/">Next: another</a></li></ul>
</main><footer><p><em>Built with Eleventy</em></p></footer></body></html>"""


THEMES: dict[str, Callable[[Story], str]] = {
    "hugo": hugo,
    "jekyll": jekyll,
    "docusaurus": docusaurus,
    "eleventy": eleventy,
}


def rss(whole: bool) -> bytes:
    """A feed of the posts; without titles and dates where it is not `whole`."""

    def item(post: Story) -> str:
        link = f"<link>/posts/{post.slug}/</link><guid>/posts/{post.slug}/</guid>"
        said = f"<title>{escape(post.title)}</title><pubDate>{format_datetime(post.published)}</pubDate>"
        return f"<item>{link}{said if whole else ''}</item>"

    items = "".join(map(item, posts()))
    return f'<rss version="2.0"><channel><title>t</title>{items}</channel></rss>'.encode()


def atom() -> bytes:
    items = "".join(
        f'<entry><title type="html">{escape(escape(post.title, quote=False))}</title>'
        f'<link href="/posts/{post.slug}/"/><id>/posts/{post.slug}</id>'
        f"<published>{post.published.isoformat()}</published><updated>2025-06-01T00:00:00Z</updated>"
        "</entry>"
        for post in posts()
    )
    return f'<feed xmlns="http://www.w3.org/2005/Atom"><title>t</title>{items}</feed>'.encode()


def sitemap(host: str) -> bytes:
    urls = "".join(f"<url><loc>{host}/posts/{post.slug}/</loc></url>" for post in posts())
    others = f"<url><loc>{host}/posts/</loc></url><url><loc>{host}/about/</loc></url>"
    return f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{others}{urls}</urlset>'.encode()


HOME = b'<html><head>%s</head><body><nav><a href="/posts/">Posts</a></nav></body></html>'
NAMED = b'<link rel="alternate" type="application/rss+xml" href="/index.xml">'
WAYS = ("/index.xml", "/bare.xml", "/atom.xml", "/home/", "/posts/")  # the last has a sitemap


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> list[Article]:
    """One crawl of every theme by every way, each with an address of its own."""
    hosts: dict[str, Host] = {}
    places: list[str] = []
    folder = tmp_path_factory.mktemp("sites") / "c"
    with serve(hosts) as port:
        for n, theme in enumerate(THEMES.values()):
            for m, way in enumerate(WAYS):
                address = f"127.0.{20 + n}.{1 + m}"
                pages: dict[str, Pieces] = {
                    "/index.xml": answer(rss(True), XML),
                    "/bare.xml": answer(rss(False), XML),
                    "/atom.xml": answer(atom(), XML),
                    "/home/": answer(HOME % NAMED),
                    "/posts/": answer(HOME % b""),
                    "/sitemap.xml": answer(sitemap(f"http://{address}:{port}"), XML),
                }
                for post in posts(10 * n + m):
                    pages[f"/posts/{post.slug}/"] = answer(theme(post).encode(), HTML)
                hosts[address] = Host(pages)
                places.append(f"http://{address}:{port}{way}")
        arguments = ("-a", f"feed={','.join(places)}", "-a", f"corpus={folder}")
        done = scrapy("crawl", "press", *arguments, *LOOPBACK)
        assert done.returncode == 0, done.stderr
    return articles_in(folder)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("theme", THEMES)
def test_every_post_has_its_title_and_date(theme: str, way: str, crawled: list[Article]) -> None:
    n, m = list(THEMES).index(theme), WAYS.index(way)
    address = f"127.0.{20 + n}.{1 + m}"
    found = {a.url.split("/")[-2]: a for a in crawled if urlsplit(a.url).hostname == address}
    expected = {post.slug: post for post in posts(10 * n + m)}
    assert set(found) == set(expected)
    for slug, post in expected.items():
        assert (found[slug].title, found[slug].published) == (post.title, post.published)
        assert post.paragraphs[0] in found[slug].text


def test_a_home_page_without_feed_and_sitemap_is_reported(crawl: Crawl, tmp_path: Path) -> None:
    with serve({"127.0.0.1": Host({"/": answer(HOME % b"")})}) as port:
        done = crawl(f"http://127.0.0.1:{port}/", tmp_path / "c")
    assert done.returncode == 4
    assert "is no RSS or Atom feed" in done.stderr


def test_pages_of_a_feed_counted_by_number_are_read_back_to_since(
    crawl: Crawl, tmp_path: Path
) -> None:
    asked: list[str] = []

    def page(number: int) -> bytes:
        items = "".join(
            f"<item><link>/posts/{post.slug}/</link><title>x</title>"
            f"<pubDate>{format_datetime(post.published)}</pubDate></item>"
            for post in posts()[::-1][number * 3 : number * 3 + 3]
        )
        return answer(f"<rss><channel>{items}</channel></rss>".encode(), XML)

    answers: dict[str, Pieces] = {f"/posts/{p.slug}/": answer(hugo(p).encode()) for p in posts()}
    answers |= {f"/feed?page={n + 1}": page(n) for n in range(4)} | {"/feed": page(0)}
    host = Host(answers, asked)
    with serve({"127.0.0.1": host}) as port:
        feed = f"http://127.0.0.1:{port}/feed"
        since = f"since={DATES[6].date()}"
        assert crawl(feed, tmp_path / "c", *LOOPBACK, "-a", since).returncode == 0
    assert {a.published for a in articles_in(tmp_path / "c")} == set(DATES[6:])
    assert [path for path in asked if "page=4" in path] == []
