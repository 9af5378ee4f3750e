"""The one spider, `press`."""
