"""Texts: the corpus on disk, built-in texts, near duplicates, counts."""
