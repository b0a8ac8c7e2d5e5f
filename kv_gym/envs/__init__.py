"""The Gymnasium skins over the engine: a single environment and a native vector environment."""
