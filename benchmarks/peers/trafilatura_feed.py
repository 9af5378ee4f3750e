"""The articles of a feed, their texts by trafilatura: a JSON line each.

trafilatura's own crawler refuses addresses on loopback; urllib fetches the pages.
"""

import json
import sys
from urllib.request import urlopen
from xml.etree import ElementTree

from trafilatura import bare_extraction

with urlopen(sys.argv[1]) as answer:
    urls = [item.text or "" for item in ElementTree.parse(answer).findall(".//item/link")]
for url in urls:
    with urlopen(url) as answer:
        found = bare_extraction(answer.read(), url=url, with_metadata=True)
    if found:
        line = {"url": url, "title": found.title, "text": found.text, "date": found.date}
        sys.stdout.write(f"{json.dumps(line)}\n")
