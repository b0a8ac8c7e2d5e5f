"""Episodes of a frozen LLM under eviction, torch in and torch out."""
