"""Corpora: their format on disk, built-in texts, near-duplicate groups, counts."""
