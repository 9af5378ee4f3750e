"""What MLflow shows: runs, curves, artifacts; the only package that imports MLflow."""
