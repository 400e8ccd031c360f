# SPDX-License-Identifier: MIT OR Apache-2.0
"""Module-level callbacks of a file-daemon plugin, forwarded to one object.

A plugin script says ``from BareosFdWrapper import *`` and so gets every function that the host looks up by name.
Which object answers is decided in one of two ways:

* new style: the script decorates its class with ``@BareosPlugin``; ``load_bareos_plugin`` makes the object;
* old style: the script defines its own ``load_bareos_plugin``, which stores an object in
  ``BareosFdWrapper.bareos_fd_plugin_object``.

May import: ``bareosfd`` only.
"""

from bareosfd import bRC_OK

__all__ = [
    "BareosPlugin",
    "bareos_fd_plugin_object",
    "check_file",
    "create_file",
    "end_backup_file",
    "end_restore_file",
    "get_acl",
    "get_xattr",
    "handle_backup_file",
    "handle_plugin_event",
    "load_bareos_plugin",
    "parse_plugin_definition",
    "plugin_io",
    "restore_object_data",
    "set_acl",
    "set_file_attributes",
    "set_xattr",
    "start_backup_file",
    "start_restore_file",
]

# The functions below read this name when they are called, never earlier: old-style scripts assign it from outside.
bareos_fd_plugin_object = None

PLUGIN_CLASS = None


def BareosPlugin(cls):
    """Class decorator: remembers the class from which ``load_bareos_plugin`` makes the plugin's object."""
    global PLUGIN_CLASS
    PLUGIN_CLASS = cls
    return cls


def load_bareos_plugin(plugindef):
    """Makes the plugin's object from the decorated class. ``plugindef`` is the options text of the definition."""
    global bareos_fd_plugin_object
    if PLUGIN_CLASS is None:
        raise RuntimeError("the plugin decorates no class with @BareosPlugin and defines no load_bareos_plugin")
    bareos_fd_plugin_object = PLUGIN_CLASS(plugindef)
    return bRC_OK


def parse_plugin_definition(plugindef):
    return bareos_fd_plugin_object.parse_plugin_definition(plugindef)


def handle_plugin_event(event):
    return bareos_fd_plugin_object.handle_plugin_event(event)


def start_backup_file(savepkt):
    return bareos_fd_plugin_object.start_backup_file(savepkt)


def end_backup_file():
    return bareos_fd_plugin_object.end_backup_file()


def start_restore_file(cmd):
    return bareos_fd_plugin_object.start_restore_file(cmd)


def end_restore_file():
    return bareos_fd_plugin_object.end_restore_file()


def restore_object_data(ROP):
    return bareos_fd_plugin_object.restore_object_data(ROP)


def plugin_io(IOP):
    return bareos_fd_plugin_object.plugin_io(IOP)


def create_file(restorepkt):
    return bareos_fd_plugin_object.create_file(restorepkt)


def set_file_attributes(restorepkt):
    return bareos_fd_plugin_object.set_file_attributes(restorepkt)


def check_file(fname):
    return bareos_fd_plugin_object.check_file(fname)


def get_acl(acl):
    return bareos_fd_plugin_object.get_acl(acl)


def set_acl(acl):
    return bareos_fd_plugin_object.set_acl(acl)


def get_xattr(xattr):
    return bareos_fd_plugin_object.get_xattr(xattr)


def set_xattr(xattr):
    return bareos_fd_plugin_object.set_xattr(xattr)


def handle_backup_file(savepkt):
    return bareos_fd_plugin_object.handle_backup_file(savepkt)
