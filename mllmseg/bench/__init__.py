"""How fast, how large, and how both grow: measured interleaved in one process, so that ratios mean something."""
