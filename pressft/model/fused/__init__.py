"""The same numbers sooner: fused operations that may be deleted without loss."""
