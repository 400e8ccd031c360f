# SPDX-License-Identifier: MIT OR Apache-2.0
"""Plugins: classes that the profile names and that hook into the events (reference, section 15)."""

import atexit
import contextlib
import importlib
import logging
import os
import sys
import threading
from typing import Any, Dict, Optional, Set

from bakthat.conf import PLUGINS_DIR, BadValue, events
from bakthat.hub import EVENTS, EventSlot

log = logging.getLogger(__name__)

plugin_setup = False
_activated: Set[str] = set()
_loading = threading.RLock()


class NoSuchEvent(AttributeError):
    """An attribute that is no event."""


class Plugin:
    """What every plugin derives from; ``activate`` hooks its methods in."""

    events = events
    log = logging.getLogger("bakthat.plugin")
    conf: Dict[str, Any] = {}

    def __init__(self, conf: Dict[str, Any]) -> None:
        self.conf = conf

    def __getattr__(self, name: str) -> EventSlot:
        if name in EVENTS:
            return getattr(events, name)
        raise NoSuchEvent(f"Event {name} does not exist!")

    def __repr__(self) -> str:
        return f"<Plugin bakthat: {type(self).__name__}>"

    def activate(self) -> None:
        raise NotImplementedError(f"Plugin should implement this! {self} does not")

    deactivate = activate


def load_class(text: str) -> Any:
    """The class that ``module.Class`` names."""
    module, _, name = text.rpartition(".")
    if not module:
        raise BadValue(f"The plugin {text!r} must be named as module.Class")
    return getattr(importlib.import_module(module), name)


def _deactivate(plugin: Plugin) -> None:
    with contextlib.suppress(NotImplementedError):
        plugin.deactivate()


def load_plugin(cls: Any, conf: Any) -> Plugin:
    """Makes and activates a plugin; it is deactivated when the interpreter ends."""
    if not (isinstance(cls, type) and issubclass(cls, Plugin)):
        raise Exception("Plugin must be a bakthat.plugin.Plugin subclass!")
    plugin = cls(conf)
    plugin.activate()
    atexit.register(_deactivate, plugin)
    log.debug("%s activated", plugin)
    return plugin


def setup_plugins(conf: Optional[Dict[str, Any]] = None) -> None:
    """Loads the plugins of a profile, once in a process; after a failure only those that are not active yet."""
    global plugin_setup
    with _loading:
        if plugin_setup:
            return
        conf = {} if conf is None else conf
        folder = os.path.expanduser(conf.get("plugins_dir") or PLUGINS_DIR)
        if os.path.isdir(folder) and folder not in sys.path:
            sys.path.append(folder)
        named = conf.get("plugins") or []
        for entry in [named] if isinstance(named, str) else named:
            if entry not in _activated:
                log.debug("Loading plugin %s", entry)
                load_plugin(load_class(entry), conf)
                _activated.add(entry)
        plugin_setup = True
