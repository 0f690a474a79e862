"""Dedicated workers: one process type per platform, and the recorder."""
