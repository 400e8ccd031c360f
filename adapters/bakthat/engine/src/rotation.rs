//! Which backups a grandfather-father-son rotation keeps (bakthat reference, section 11): dates, nothing is touched here.

use std::collections::{BTreeMap, BTreeSet};

use jiff::ToSpan;
use jiff::civil::{Date, DateTime, Time};

/// A unit of time by which backups are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// From the first of January on.
    Year,
    /// From the first of a month on.
    Month,
    /// From the first day of a week on, which the settings name.
    Week,
    /// From midnight on.
    Day,
    /// From the full hour on.
    Hour,
    /// From the full minute on.
    Minute,
    /// From the full second on.
    Second,
}

impl Unit {
    /// All, the longest first.
    pub const ALL: [Self; 7] = [Self::Year, Self::Month, Self::Week, Self::Day, Self::Hour, Self::Minute, Self::Second];

    /// As in `oldest of its day`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Year => "year",
            Self::Month => "month",
            Self::Week => "week",
            Self::Day => "day",
            Self::Hour => "hour",
            Self::Minute => "minute",
            Self::Second => "second",
        }
    }

    /// The start of a moment's year, month, and so on.
    fn start(self, of: DateTime, first_week_day: i8) -> DateTime {
        let date = of.date();
        let clock = |hour, minute, second| date.to_datetime(Time::constant(hour, minute, second, 0));
        match self {
            Self::Year => date.first_of_year().to_datetime(Time::midnight()),
            Self::Month => date.first_of_month().to_datetime(Time::midnight()),
            Self::Week => {
                let past = (date.weekday().to_monday_zero_offset() - first_week_day).rem_euclid(7);
                date.checked_sub(past.days()).unwrap_or(Date::MIN).to_datetime(Time::midnight())
            }
            Self::Day => clock(0, 0, 0),
            Self::Hour => clock(of.hour(), 0, 0),
            Self::Minute => clock(of.hour(), of.minute(), 0),
            Self::Second => clock(of.hour(), of.minute(), of.second()),
        }
    }

    /// The start that lies so many units before a start.
    fn before(self, start: DateTime, count: u64) -> DateTime {
        let Ok(count) = i64::try_from(count) else { return DateTime::MIN };
        let span = jiff::Span::new();
        let span = match self {
            Self::Year => span.try_years(count),
            Self::Month => span.try_months(count),
            Self::Week => span.try_weeks(count),
            Self::Day => span.try_days(count),
            Self::Hour => span.try_hours(count),
            Self::Minute => span.try_minutes(count),
            Self::Second => span.try_seconds(count),
        };
        span.and_then(|span| start.checked_sub(span)).unwrap_or(DateTime::MIN)
    }
}

/// How many of each unit are kept, in the order of [`Unit::ALL`], and the day that weeks begin with (0 is Monday).
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of each unit.
    pub counts: [u64; 7],
    /// From Monday on.
    pub first_week_day: i8,
}

/// Why a backup is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its date is after now.
    AfterNow,
    /// It is the oldest of its year, month, and so on.
    OldestOf(Unit),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AfterNow => f.write_str("after now"),
            Self::OldestOf(unit) => write!(f, "oldest of its {}", unit.name()),
        }
    }
}

/// The dates to keep, each with its reasons; all others are to be deleted.
#[must_use]
pub fn reasons_to_keep(
    dates: &BTreeSet<DateTime>,
    now: DateTime,
    settings: &Settings,
) -> BTreeMap<DateTime, Vec<Reason>> {
    let mut kept: BTreeMap<DateTime, Vec<Reason>> = BTreeMap::new();
    for date in dates.iter().filter(|date| **date > now) {
        kept.insert(*date, vec![Reason::AfterNow]);
    }
    for (unit, count) in Unit::ALL.into_iter().zip(settings.counts) {
        let Some(further) = count.checked_sub(1) else { continue };
        let start = |date| unit.start(date, settings.first_week_day);
        let window = unit.before(start(now), further);
        let mut last = None;
        for date in dates.iter().filter(|date| (window..=now).contains(*date)) {
            if last.replace(start(*date)) != Some(start(*date)) {
                kept.entry(*date).or_default().push(Reason::OldestOf(unit));
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    const SATURDAY: i8 = 5;

    fn at(text: &str) -> DateTime {
        let text = if text.len() < 16 { format!("2014-{text}") } else { text.to_owned() };
        text.parse().unwrap()
    }

    fn settings(counts: &[(Unit, u64)], first_week_day: i8) -> Settings {
        let of = |unit: Unit| counts.iter().find(|(own, _)| *own == unit).map_or(0, |(_, count)| *count);
        Settings { counts: Unit::ALL.map(of), first_week_day }
    }

    fn kept(dates: &[DateTime], now: &str, counts: &[(Unit, u64)], first_week_day: i8) -> Vec<String> {
        let dates = dates.iter().copied().collect();
        let kept = reasons_to_keep(&dates, at(now), &settings(counts, first_week_day));
        kept.keys().map(|date| date.strftime("%m-%d %H:%M").to_string()).collect()
    }

    fn daily() -> Vec<DateTime> {
        (0..60).map(|days: i64| at("02-12T01:00") - days.days()).collect()
    }

    const NOW: &str = "02-12T10:00";

    #[test]
    fn example_a() {
        let counts = [(Unit::Day, 3), (Unit::Week, 2), (Unit::Month, 2)];
        let right = ["01-01 01:00", "02-01 01:00", "02-08 01:00", "02-10 01:00", "02-11 01:00", "02-12 01:00"];
        assert_eq!(kept(&daily(), NOW, &counts, SATURDAY), right);
    }

    #[test]
    fn example_b() {
        let dates = ["12T01", "12T05", "12T09", "11T01", "11T05", "11T23"].map(|day| at(&format!("02-{day}:00")));
        assert_eq!(kept(&dates, NOW, &[(Unit::Day, 2)], SATURDAY), ["02-11 01:00", "02-12 01:00"]);
    }

    #[test]
    fn example_c() {
        let mut dates: Vec<DateTime> =
            (8..=12).flat_map(|month| [3, 20].map(|day| date(2013, month, day).at(4, 0, 0, 0))).collect();
        dates.extend(["01-10T04:00", "01-14T04:00"].map(at));
        let right = ["10-03 04:00", "11-03 04:00", "12-03 04:00", "01-10 04:00"];
        assert_eq!(kept(&dates, "01-15T00:00", &[(Unit::Month, 4)], SATURDAY), right);
    }

    #[test]
    fn example_d() {
        let dates = ["08:10", "08:50", "09:30", "12:00"].map(|time| at(&format!("02-12T{time}")));
        assert_eq!(kept(&dates, NOW, &[(Unit::Hour, 2)], SATURDAY), ["02-12 09:30", "02-12 12:00"]);
    }

    #[test]
    fn example_e() {
        assert_eq!(kept(&daily(), NOW, &[(Unit::Week, 2)], 0), ["02-03 01:00", "02-10 01:00"]);
    }

    #[test]
    fn weeks_begin_on_the_day_that_is_named() {
        for (first, day, start) in
            [(5, "02-07", "02-01"), (5, "02-08", "02-08"), (6, "02-08", "02-02"), (0, "02-09", "02-03")]
        {
            let start = at(&format!("{start}T00:00"));
            assert_eq!(Unit::Week.start(at(&format!("{day}T12:00")), first), start, "{first} {day}");
        }
        for (first, start) in [(5, "01-25"), (6, "01-26"), (0, "01-27")] {
            let window = Unit::Week.before(Unit::Week.start(at(NOW), first), 2);
            assert_eq!(window, at(&format!("{start}T00:00")), "{first}");
        }
    }

    #[test]
    fn months_and_years_step_by_the_calendar_and_end_with_it() {
        let january = Unit::Month.start(at("01-15T00:00"), SATURDAY);
        assert_eq!(Unit::Month.before(january, 1), date(2013, 12, 1).at(0, 0, 0, 0));
        assert_eq!(Unit::Month.before(january, 13), date(2012, 12, 1).at(0, 0, 0, 0));
        assert_eq!(Unit::Year.before(date(2014, 1, 1).at(0, 0, 0, 0), 2), date(2012, 1, 1).at(0, 0, 0, 0));
        for unit in Unit::ALL {
            for count in [10_u64.pow(9), u64::MAX] {
                assert!(unit.before(january, count) < at("01-01T00:00"), "{unit:?} {count}");
            }
        }
    }

    #[test]
    fn what_lies_after_now_stays_and_says_so() {
        let dates = [at(NOW), at("02-12T10:01")].into_iter().collect();
        let reasons = reasons_to_keep(&dates, at(NOW), &settings(&[], SATURDAY));
        assert_eq!(reasons.into_iter().collect::<Vec<_>>(), [(at("02-12T10:01"), vec![Reason::AfterNow])]);
        let now = reasons_to_keep(&dates, at(NOW), &settings(&[(Unit::Year, 1), (Unit::Second, 1)], SATURDAY));
        let texts: Vec<String> = now[&at(NOW)].iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["oldest of its year", "oldest of its second"]);
    }
}
