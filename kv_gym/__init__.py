"""kv-gym: decide which key-value cache slots of a frozen reasoning LLM are evicted while it writes.

``import kv_gym`` registers the environment ids; everything heavy is loaded when an environment is made.
"""

import gymnasium

from kv_gym.registry import env_ids

__version__ = "0.1.0"


def register_envs() -> None:
    """Register every environment of `envs_configs`. Safe to call again."""
    for env_id in env_ids():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                id=env_id,
                entry_point="kv_gym.envs.eviction_env:KVEvictEnv",
                vector_entry_point="kv_gym.envs.vector_env:KVEvictVectorEnv",
                kwargs={"env_id": env_id},
            )


register_envs()
