"""Published eviction rules, one a file."""
