"""Text to ids, exactly as the tokenizer.json says."""
