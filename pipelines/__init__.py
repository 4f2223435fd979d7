"""The pipeline, its recipes and its policies."""
