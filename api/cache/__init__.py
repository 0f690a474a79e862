"""The two-level cache: memory (L1) and Redis (L2), valid by tags."""
