"""One run of training: its start, its steps, its checkpoints, its end."""
