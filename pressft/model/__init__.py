"""The language model: loading, tokens, removing layers, adapters."""
