"""The articles of a feed by news-please, as a library: pages, texts, a JSON line each."""

import json
import sys
from urllib.request import urlopen
from xml.etree import ElementTree

from newsplease import NewsPlease

with urlopen(sys.argv[1]) as answer:
    urls = [item.text for item in ElementTree.parse(answer).findall(".//item/link")]
for url in urls:
    found = NewsPlease.from_url(url)
    if found and found.maintext:
        line = {"url": url, "title": found.title, "text": found.maintext}
        sys.stdout.write(f"{json.dumps(line | {'date': str(found.date_publish)})}\n")
