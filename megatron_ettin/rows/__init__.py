"""Packing, order, masks: the rows of a step as a function of corpus, seed and step."""
