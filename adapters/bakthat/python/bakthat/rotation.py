# SPDX-License-Identifier: MIT OR Apache-2.0
"""Which backups a grandfather-father-son rotation keeps (reference, section 11): dates, nothing is touched here."""

from datetime import datetime, timedelta
from typing import Any, Callable, Dict, Iterable, Mapping, Tuple

from bakthat.conf import BadKey, BadValue, BakthatError

SATURDAY = 5
Buckets = Dict[str, Tuple[Callable[[datetime], datetime], Callable[[datetime, int], datetime]]]


def _months_before(start: datetime, count: int) -> datetime:
    months = start.year * 12 + start.month - 1 - count
    return start.replace(year=months // 12, month=months % 12 + 1) if months >= 12 else datetime.min


def _before(start: datetime, span: timedelta) -> datetime:
    try:
        return start - span
    except OverflowError:
        return datetime.min


def _buckets(first_week_day: int) -> Buckets:
    """For each unit: the start of a date's bucket, and the start of the one that lies some units before."""

    def day(date: datetime) -> datetime:
        return datetime(date.year, date.month, date.day)

    def step(**unit: int) -> Callable[[datetime, int], datetime]:
        return lambda start, count: _before(start, timedelta(**unit) * min(count, 10**7))

    return {
        "years": (lambda date: datetime(date.year, 1, 1), lambda start, count: _months_before(start, 12 * count)),
        "months": (lambda date: datetime(date.year, date.month, 1), _months_before),
        "weeks": (lambda d: _before(day(d), timedelta((d.weekday() - first_week_day) % 7)), step(weeks=1)),
        "days": (day, step(days=1)),
        "hours": (lambda date: date.replace(minute=0, second=0, microsecond=0), step(hours=1)),
        "minutes": (lambda date: date.replace(second=0, microsecond=0), step(minutes=1)),
        "seconds": (lambda date: date.replace(microsecond=0), step(seconds=1)),
    }


def settings_of(rotation: Any) -> Dict[str, int]:
    """The settings as numbers; TypeError for an unknown key, ValueError for a negative or senseless value."""
    if not isinstance(rotation, Mapping) or not rotation:
        raise BakthatError("No rotation settings for the current profile: run bakthat configure_backups_rotation")
    units = _buckets(SATURDAY)
    settings = {"first_week_day": SATURDAY, **dict.fromkeys(units, 0)}
    for key, value in rotation.items():
        if key not in settings:
            raise BadKey(f"Unknown rotation setting {key}: known are first_week_day, {', '.join(units)}")
        try:
            settings[key] = int(value)
        except (TypeError, ValueError):
            raise BadValue(f"The rotation setting {key} must be a whole number, not {value!r}") from None
        if settings[key] < 0 or (key == "first_week_day" and settings[key] > 6):
            raise BadValue(f"The rotation setting {key} cannot be {value}")
    return settings


def reasons_to_keep(dates: Iterable[datetime], now: datetime, settings: Mapping[str, int]) -> Dict[datetime, str]:
    """The dates to keep, each with the reason; all others are to be deleted."""
    dates = sorted(set(dates))
    kept: Dict[datetime, list] = {date: ["after now"] for date in dates if date > now}
    for unit, (start_of, earlier) in _buckets(settings["first_week_day"]).items():
        count = settings[unit]
        if count <= 0:
            continue
        window, seen = earlier(start_of(now), count - 1), set()
        for date in dates:
            if window <= date <= now and start_of(date) not in seen:
                seen.add(start_of(date))
                kept.setdefault(date, []).append(f"oldest of its {unit[:-1]}")
    return {date: ", ".join(reasons) for date, reasons in kept.items()}
