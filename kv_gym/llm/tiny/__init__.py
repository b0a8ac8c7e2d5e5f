"""The embedded model: tokenizer, recipe and weights."""
