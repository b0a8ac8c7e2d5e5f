"""Which environments there are: the files of `envs_configs`. Kept free of heavy imports."""

from pathlib import Path

_HERE = Path(__file__).parent
CONFIG_FOLDER = _HERE / "envs_configs" if (_HERE / "envs_configs").is_dir() else _HERE.parent / "envs_configs"


def env_ids() -> list[str]:
    """Ids of all environments."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*-v*.yaml"))
