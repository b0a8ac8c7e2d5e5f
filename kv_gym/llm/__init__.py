"""The boundary to transformers: loading, attention, caches. Everything that touches its internals sits here."""
