# SPDX-License-Identifier: MIT OR Apache-2.0
"""Grandfather-father-son rotation (reference, section 11): settings as numbers, and which dates they keep."""

from bakthat._native import reasons_to_keep
from bakthat._native import rotation_settings as settings_of

__all__ = ["reasons_to_keep", "settings_of"]
