"""Somebody else's files as a stream of documents; knows neither tokenizer nor corpus."""
