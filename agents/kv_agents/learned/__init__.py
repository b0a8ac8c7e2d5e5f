"""Scorers that were trained, their weights, and the agents that use them."""
