"""Markdown that holds text from outside."""

import html
import re


def plain(text: str) -> str:
    """Text that Markdown shows as it is: no tag, link or picture comes of it."""
    escaped = re.sub(r"([\\`*_\[\]!#])", r"\\\1", html.escape(text, quote=False))
    return escaped.replace("|", "&#124;").replace("~", "&#126;")  # no backslash helps in showdown
