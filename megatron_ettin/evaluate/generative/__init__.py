"""Generative tasks by lm-eval's own task files: decoders as they are, encoders by three masks."""
