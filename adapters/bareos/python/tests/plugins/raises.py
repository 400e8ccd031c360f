# SPDX-License-Identifier: MIT OR Apache-2.0
"""Raises ValueError("raised in <callback>") in the callback named by the option where=."""

from probe_base import misbehave_in


def fail(callback, given):
    raise ValueError(f"raised in {callback}")


misbehave_in(globals(), fail)
