"""Submissions that can be checked again, their ranking, and the board's page."""
