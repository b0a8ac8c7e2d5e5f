"""The Gymnasium skins over the engine: a single environment and a native vector environment."""

from kv_gym.envs.waiting import told_if_slow

with told_if_slow("torch and transformers are being loaded, which takes long the first time"):
    import kv_gym.llm.loading  # noqa: F401  # before the modules of this package load it without a word
