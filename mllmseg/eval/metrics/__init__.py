"""Scorers over saved predictions, one per file."""
