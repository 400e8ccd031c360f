# SPDX-License-Identifier: MIT OR Apache-2.0
"""Answers nonsense: callback= (or where=) names the callback, rc= the answer.

rc is an integer (9, -1, 99999999999999999999), or None, text, float, true or false.
"""

from probe_base import misbehave_in

ANSWERS = {"None": None, "text": "bRC_OK", "float": 0.0, "true": True, "false": False}


def answer(callback, given):
    rc = given["rc"]
    return (ANSWERS[rc] if rc in ANSWERS else int(rc),)


misbehave_in(globals(), answer)
