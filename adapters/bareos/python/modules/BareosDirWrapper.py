# SPDX-License-Identifier: MIT OR Apache-2.0
"""Module-level callbacks of a director plugin, forwarded to one object.

A plugin script says ``from BareosDirWrapper import *`` and so gets the two functions that the host looks up by name. Its
own ``load_bareos_plugin`` stores an object in ``BareosDirWrapper.bareos_dir_plugin_object``.

Imports nothing.
"""

__all__ = ["bareos_dir_plugin_object", "handle_plugin_event", "parse_plugin_definition"]

# The functions below read this name when they are called, never earlier: scripts assign it from outside.
bareos_dir_plugin_object = None


def parse_plugin_definition(plugindef):
    return bareos_dir_plugin_object.parse_plugin_definition(plugindef)


def handle_plugin_event(event):
    return bareos_dir_plugin_object.handle_plugin_event(event)
