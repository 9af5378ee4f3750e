"""Measuring a model: perplexity, continuations, answers, layer scans, inference cost."""
