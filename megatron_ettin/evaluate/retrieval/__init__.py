"""The retrieval suite: models become embedding models by contrastive training, and mteb scores them."""
