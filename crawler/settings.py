"""Settings of the Scrapy project: polite to newsrooms, closed to everything else."""

BOT_NAME = "pressft"
SPIDER_MODULES = ["crawler.spiders"]
COMMANDS_MODULE = "crawler.commands"

# Ours, for `-s NAME=VALUE`.
PRESS_ALLOW_PRIVATE = False  # True lets a crawl reach loopback and private addresses
PRESS_CONTACT = ""  # an e-mail address or page for the User-Agent; public hosts require it
PRESS_MIN_WORDS = 10  # shorter texts are dropped

# Polite: one connection and one request a second to a host, and only what robots.txt allows.
ROBOTSTXT_OBEY = True
ROBOTSTXT_USER_AGENT = BOT_NAME
USER_AGENT = BOT_NAME  # the spider adds version and contact
CONCURRENT_REQUESTS_PER_DOMAIN = 1
DOWNLOAD_DELAY = 1.0
DOWNLOAD_DELAY_JITTER = 0.0  # the default of 0.5 would allow two requests a second
COOKIES_ENABLED = False
REFERRER_POLICY = "no-referrer"

# Closed: http and https to verified hosts, bounded in size, time and hops, no way in.
TWISTED_DNS_RESOLVER = "crawler.middlewares.addresses.PublicResolver"
DOWNLOAD_HANDLERS = {
    "data": None,
    "file": None,
    "ftp": None,
    "s3": None,
    "http": "crawler.middlewares.politeness.ThrottledHandler",
    "https": "crawler.middlewares.politeness.ThrottledHandler",
}
DOWNLOAD_VERIFY_CERTIFICATES = True
DOWNLOAD_MAXSIZE = 5 * 1024 * 1024  # bytes after decompression
DOWNLOAD_TIMEOUT = 30.0  # for a whole page; the next crawl tries again
RETRY_EXCEPTIONS = [
    "scrapy.exceptions.CannotResolveHostError",
    "scrapy.exceptions.DownloadConnectionRefusedError",
    "scrapy.exceptions.DownloadFailedError",
    "scrapy.exceptions.ResponseDataLossError",
    "twisted.internet.error.ConnectError",
    "twisted.internet.error.ConnectionLost",
]
REDIRECT_MAX_TIMES = 5
METAREFRESH_MAXDELAY = 5
TELNETCONSOLE_ENABLED = False
REMOTE_CONTROL_ENABLED = False
CONCURRENT_ITEMS = 1  # a page gives one; Scrapy 2.19 starts so many tasks for each response
ITEM_PIPELINES = {
    "crawler.pipelines.StorePipeline": 100,
    "crawler.pipelines.ExtractPipeline": 200,
    "crawler.pipelines.ExportPipeline": 300,
}
DOWNLOADER_MIDDLEWARES = {
    "scrapy.downloadermiddlewares.robotstxt.RobotsTxtMiddleware": None,
    "crawler.middlewares.robots.ObeyRobotsMiddleware": 100,
    "crawler.middlewares.addresses.PublicAddressMiddleware": 760,  # after 750: it sees the proxy
}

# First in, first out; pages of feeds have a higher priority. The spider knows its requests: a
# filter would lose, uncounted, pages that redirect to themselves or to one another.
DUPEFILTER_CLASS = "scrapy.dupefilters.BaseDupeFilter"
SCHEDULER_MEMORY_QUEUE = "scrapy.squeues.FifoMemoryQueue"

# Output: a progress line, one summary, and what went wrong.
EXTENSIONS = {
    "crawler.progress.ProgressExtension": 500,
    "scrapy.extensions.feedexport.FeedExporter": None,
    "scrapy.extensions.logstats.LogStats": None,
}
LOG_LEVEL = "WARNING"
LOG_FORMAT = "%(levelname)s: %(message)s"
LOG_VERSIONS: list[str] = []
RETRY_GIVE_UP_LOG_LEVEL = "INFO"  # counted and summed up at the end
STATS_DUMP = False
