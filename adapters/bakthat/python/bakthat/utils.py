# SPDX-License-Identifier: MIT OR Apache-2.0
"""Intervals, sizes, times and names (reference, sections 3, 4.7 and 8)."""

import logging
import os
import re
import time
from datetime import datetime, timedelta, timezone
from typing import Any, Optional, Tuple

log = logging.getLogger(__name__)

SECONDS = {"s": 1, "m": 60, "h": 3600, "D": 86400, "W": 604800, "M": 2592000, "Y": 31536000}
DATE = "%Y%m%d%H%M%S"
STORED_NAME = re.compile(r"(?s)(?P<name>.+)\.(?P<date>\d{14})(?P<kind>\.tgz|\.tar|)(?P<enc>\.enc|\.age|)")
# Releases before 0.4.0 wrote no dot before the date.
OLD_NAME = re.compile(r"(?s)(?P<name>.+?)(?P<date>\d{14}|\d{8})(?P<kind>\.tgz)(?P<enc>\.enc|)")


def _interval_string_to_seconds(interval: str) -> int:
    """The seconds of an interval such as ``1M3W4h2s``."""
    text = str(interval or "")
    parts = [(int(number), SECONDS[unit]) for number, unit in re.findall(r"([0-9]+)([smhDWMY])", text)]
    if not re.fullmatch(r"(?:[0-9]+[smhDWMY])+", text) or not all(number for number, _ in parts):
        raise Exception(f"Bad interval format for {interval}")
    return sum(number * seconds for number, seconds in parts)


def _timedelta_total_seconds(td: timedelta) -> float:
    return td.total_seconds()


def size_text(size: float) -> str:
    """A size by thousands, whole where it is a whole multiple: ``3.1 KB``, ``1 KB``."""
    units, unit = ("B", "KB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"), 0
    while unit < len(units) - 1 and size >= 1000 ** (unit + 1):
        unit += 1
    whole, rest = divmod(size, 1000**unit)
    return f"{whole:d} {units[unit]}" if not rest else f"{size / 1000**unit:.1f} {units[unit]}"


def utc_clock() -> datetime:
    """The UTC clock, without a zone and without fractions."""
    return datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0)


def shifted(clock: datetime) -> int:
    """A UTC clock read as if it were local time: what the column ``backup_date`` holds."""
    return int(time.mktime(clock.timetuple()))


def true_epoch(backup_date: float) -> float:
    """The moment that a ``backup_date`` means."""
    return datetime.fromtimestamp(backup_date).replace(tzinfo=timezone.utc).timestamp()


def safe_text(name: Any) -> str:
    """A file's name as text that every database and storage takes: bytes that are not UTF-8 become ``\\xNN``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def parse_stored_name(stored_name: str) -> Optional[Tuple[str, datetime, str, str]]:
    """Name, UTC clock, kind (``.tgz``, ``.tar`` or nothing) and container of a stored name, or None."""
    found = STORED_NAME.fullmatch(stored_name) or OLD_NAME.fullmatch(stored_name)
    if not found:
        return None
    try:
        clock = datetime.strptime(found["date"].ljust(14, "0"), DATE)
    except ValueError:
        return None
    return found["name"], clock, found["kind"], found["enc"]
