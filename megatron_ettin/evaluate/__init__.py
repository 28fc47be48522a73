"""What a model knows: losses on held-out text in one table for all four kinds, and demonstrations."""
