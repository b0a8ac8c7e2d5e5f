"""What there is by name: environments, and what installed packages offer. Kept free of heavy imports."""

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from kv_gym.errors import ConfigError

_HERE = Path(__file__).parent
CONFIG_FOLDER = _HERE / "envs_configs" if (_HERE / "envs_configs").is_dir() else _HERE.parent / "envs_configs"


def env_ids() -> list[str]:
    """Ids of all environments."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*-v*.yaml"))


def plugins(group: str, kind: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name, sorted; nothing is loaded.

    Args:
        group: Such as `kv_gym.agents`.
        kind: What it offers, for people.

    Raises:
        ConfigError: Two packages claim one name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            claims = f"{other.value} and {entry.value}"
            raise ConfigError(f"{kind} {entry.name!r} is claimed by {claims}. Uninstall one of the two packages.")
    return found
