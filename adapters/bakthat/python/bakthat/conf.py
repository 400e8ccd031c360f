# SPDX-License-Identifier: MIT OR Apache-2.0
"""Configuration: where the files are, profiles, and the one event hub (reference, sections 1.2 and 2)."""

import logging
import os
from typing import Any, Dict, Optional

import yaml

from bakthat._native import check_settings, replace_private
from bakthat.hub import Events

log = logging.getLogger(__name__)

CONFIG_FILE = os.path.expanduser("~/.bakthat.yml")
PLUGINS_DIR = os.path.expanduser("~/.bakthat_plugins")
DATABASE = os.path.expanduser("~/.bakthat.sqlite")
DEFAULT_LOCATION = "us-east-1"
DEFAULT_DESTINATION = "s3"
EXCLUDE_FILES = [".bakthatexclude", ".gitignore"]

Maybe = Optional[str]  # a name that may be left out

events = Events()


class BakthatError(Exception):
    """What the user can put right: the text is one line for them."""


class MissingKey(BakthatError, KeyError):
    """A name that is not known; a KeyError for the scripts that catch one."""

    __str__ = Exception.__str__


class BadValue(BakthatError, ValueError):
    """A value that cannot be; a ValueError as the original's."""


class BadKey(BakthatError, TypeError):
    """A setting that is not known; a TypeError as the original's."""


class NoAnswer(BakthatError, EOFError):
    """A question that nobody was there to answer; an EOFError as the original's."""


def load_config(config_file: Any = CONFIG_FILE) -> Dict[str, Any]:
    """The profiles of a file; none if it is missing or empty."""
    path = os.path.expanduser(os.fspath(config_file))
    try:
        with open(path, encoding="utf-8") as stream:
            loaded = yaml.safe_load(stream)
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BakthatError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded or {}, dict):
        raise BakthatError(f"{path} must be a mapping of profiles")
    return {str(name): profile for name, profile in (loaded or {}).items()}


def write_config(profiles: Dict[str, Any], path: str = CONFIG_FILE) -> None:
    """Replaces the file at once, readable by its owner only."""
    text = yaml.safe_dump(profiles, default_flow_style=False, allow_unicode=True)
    replace_private(path, text.encode("utf-8"))


def profiles_of(config: Any = None, conf: Optional[Dict[str, Any]] = None, profile: str = "default") -> Dict[str, Any]:
    """The profiles that a call means: its flat ``conf``, its dict of profiles, or the file it names."""
    if conf:
        return {profile: conf}
    return config if isinstance(config, dict) else load_config(config or CONFIG_FILE)


def profile_of(profiles: Any, profile: str = "default") -> Dict[str, Any]:
    """One profile; a clear error if there is none of that name."""
    found = profiles.get(profile)
    if found is None:
        raise MissingKey(f"No {profile} profile defined in the configuration: run bakthat configure -p {profile}")
    if not isinstance(found, dict):
        raise BadValue(f"The profile {profile} must be a mapping of settings")
    check_settings(profile, found)
    return found


try:
    config = load_config()
except (BakthatError, OSError) as unreadable:
    # An import must not fail for it; every storage call reads the file again and says what is wrong.
    log.error("%s", unreadable)
    config = {}
