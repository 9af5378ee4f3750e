"""The demo on one machine: a newsroom on loopback, a crawl, a study."""
