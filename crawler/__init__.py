"""From a feed to a corpus: the Scrapy project behind `scrapy crawl press`; it knows no models.

The way of the data: `arguments` (what to crawl) → `spiders.press` with `feeds` (entries) → `store`
(every page, raw) → `pipelines`, which run `extract` in the `sandbox` → `export` (shards).
"""
