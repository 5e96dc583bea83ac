"""The one door to the parameters: `load_config()` gives a validated, frozen `Config`.

The file holds the `laptop` values, `profiles.<name>` only what another profile changes, and
`key.path=value` overrides come last: file < profile < overrides.
"""

from tasks.config.errors import ConfigError
from tasks.config.holding import FolderInUse, held
from tasks.config.load import load_config, parse_arguments
from tasks.config.sections import Config

__all__ = ["Config", "ConfigError", "FolderInUse", "held", "load_config", "parse_arguments"]
