# SPDX-License-Identifier: MIT OR Apache-2.0
"""Intervals, sizes, times and names (reference, sections 3, 4.7 and 8)."""

import logging
import os
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, Callable

from bakthat._native import interval_seconds as _interval_string_to_seconds
from bakthat._native import parse_stored_name, size_text
from bakthat.conf import NoAnswer

__all__ = ["_interval_string_to_seconds", "_timedelta_total_seconds", "parse_stored_name", "size_text"]

temporary_folder = partial(tempfile.TemporaryDirectory, prefix="bakthat_")
log = logging.getLogger(__name__)

DATE = "%Y%m%d%H%M%S"


def _timedelta_total_seconds(td: timedelta) -> float:
    return td.total_seconds()


def utc_clock() -> datetime:
    """The UTC clock, without a zone and without fractions."""
    return datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0)


def shifted(clock: datetime) -> int:
    """A UTC clock read as if it were local time: what the column ``backup_date`` holds."""
    return int(time.mktime(clock.timetuple()))


def true_epoch(backup_date: float) -> float:
    """The moment that a ``backup_date`` means."""
    return datetime.fromtimestamp(backup_date).replace(tzinfo=timezone.utc).timestamp()


def asked(ask: Callable[[str], str], prompt: str, missing: str = "set BAKTHAT_PASSWORD") -> str:
    """What somebody answers; one line of its own where nobody is there."""
    try:
        return ask(prompt)
    except EOFError:
        print(file=sys.stdout if ask is input else sys.stderr, flush=True)
        raise NoAnswer(f"There was no answer to {prompt.split(' (')[0].strip(': ')}: {missing}") from None


def safe_text(name: Any) -> str:
    """A name as text that every database and storage takes: bytes that are not UTF-8 become ``\\xNN``."""
    return os.fsencode(str(name) if isinstance(name, int) else name).decode("utf-8", "backslashreplace")
