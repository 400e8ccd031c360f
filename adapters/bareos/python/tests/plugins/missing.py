# SPDX-License-Identifier: MIT OR Apache-2.0
"""Loads, parses, and has no other callback. With only=load it has not even parse_plugin_definition; see also empty.py."""

from bareosfd import bRC_OK


def load_bareos_plugin(plugindef):
    if "only=load:" in plugindef:
        del globals()["parse_plugin_definition"]
    return bRC_OK


def parse_plugin_definition(plugindef):
    return bRC_OK


start_backup_file = "a name that can not be called counts as missing"
