"""A suite over the checkpoints of a training: curves against tokens, and what was learned in between."""
