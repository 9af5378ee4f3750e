"""Escaping of foreign text for Markdown."""

import html
import re


def plain(text: str) -> str:
    """Escape text so that Markdown shows it unchanged, without tags, links or pictures."""
    escaped = re.sub(r"([\\`*_\[\]!#])", r"\\\1", html.escape(text, quote=False))
    return escaped.replace("|", "&#124;").replace("~", "&#126;")  # showdown ignores a backslash
