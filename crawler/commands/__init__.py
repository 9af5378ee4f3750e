"""Commands of this project, in place of Scrapy's own."""
