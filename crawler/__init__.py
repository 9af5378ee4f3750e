"""From a feed to a corpus: the Scrapy project behind `scrapy crawl press`; it knows no models.

The way of the data: `plan` (what is asked) → `spiders.press` with `feeds` (entries) → `store`
(every page as it came) → `extraction`, `cleaning`, `articles` (pure) → `exporter` (shards).
"""
