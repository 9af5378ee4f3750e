"""Middlewares, resolver and download handler: where a crawl may go, and how fast."""
