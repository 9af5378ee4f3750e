"""An article out of one stored page: plain functions on text, without Scrapy."""
