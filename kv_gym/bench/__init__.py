"""Measuring agents: a plan is played, rows are kept, and summed up in a report."""
