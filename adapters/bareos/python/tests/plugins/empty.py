# SPDX-License-Identifier: MIT OR Apache-2.0
"""A module that has no callback at all, not even load_bareos_plugin."""
