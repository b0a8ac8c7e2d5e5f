"""Agents: what decides which slots go."""
