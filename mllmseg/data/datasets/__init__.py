"""Datasets, one per file, each in the form its authors released."""
