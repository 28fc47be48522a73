"""Models made from models without training: weights joined, another vocabulary."""
