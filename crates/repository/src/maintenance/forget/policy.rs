//! restic's retention rules (its `snapshot_policy.go` as of 0.18; 0.14 does not keep the oldest for a count that is left).

use std::fmt;
use std::str::FromStr;

use backstay_core::{Id, Time};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use serde::Serialize;

use crate::error::Error;
use crate::snapshot::{Snapshot, SnapshotTime, now};

/// How many snapshots a rule keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepCount {
    /// The rule is not used.
    #[default]
    Off,
    /// So many.
    Newest(u32),
    /// All of them.
    All,
}

impl KeepCount {
    fn is_left(self) -> bool {
        matches!(self, Self::All) || matches!(self, Self::Newest(left) if left > 0)
    }

    fn number(self) -> i64 {
        match self {
            Self::Off => 0,
            Self::Newest(left) => left.into(),
            Self::All => -1,
        }
    }
}

impl FromStr for KeepCount {
    type Err = Error;

    /// Reads a number, `unlimited`, or `-1`, which means the same.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "unlimited" | "-1" => Ok(Self::All),
            _ => match text.parse() {
                Ok(0) => Ok(Self::Off),
                Ok(number) => Ok(Self::Newest(number)),
                Err(_) => {
                    Err(Error::Other(format!("{text:?} is not a number of snapshots: give one, or \"unlimited\"")))
                }
            },
        }
    }
}

/// A span of time by the calendar, as `1y5m7d2h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepWithin {
    /// Years.
    pub years: u32,
    /// Months.
    pub months: u32,
    /// Days.
    pub days: u32,
    /// Hours.
    pub hours: u32,
}

impl KeepWithin {
    /// Whether it is no time at all: the rule is not used.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// The moment that lies so far before `time`: years, months and days by the calendar of the zone, as Go's `AddDate` has
    /// it (the 31st of a month of 30 days is the 1st of the next), then hours.
    fn before(&self, time: Time, zone: &TimeZone) -> Time {
        let Ok(stamp) = Timestamp::new(time.seconds, i32::try_from(time.nanoseconds).unwrap_or(0)) else {
            return LONG_AGO;
        };
        let local = zone.to_datetime(stamp);
        let months = i64::from(local.year()) * 12 + i64::from(local.month())
            - 1
            - i64::from(self.years) * 12
            - i64::from(self.months);
        let first =
            i16::try_from(months.div_euclid(12)).ok().zip(i8::try_from(months.rem_euclid(12) + 1).ok()).and_then(
                |(year, month)| DateTime::from_parts(jiff::civil::Date::new(year, month, 1).ok()?, local.time()).into(),
            );
        let days = i64::from(local.day()) - 1 - i64::from(self.days);
        let moment = first
            .and_then(|first: DateTime| first.checked_add(jiff::Span::new().try_days(days).ok()?).ok())
            .and_then(|local| zone.to_ambiguous_timestamp(local).compatible().ok());
        match moment {
            Some(moment) => {
                Time { seconds: moment.as_second() - i64::from(self.hours) * 3600, nanoseconds: time.nanoseconds }
            }
            None => LONG_AGO,
        }
    }
}

const LONG_AGO: Time = Time { seconds: i64::MIN, nanoseconds: 0 };

impl fmt::Display for KeepWithin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, unit) in [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')] {
            if number != 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for KeepWithin {
    type Err = Error;

    /// Reads numbers with `y`, `m` (months), `d` or `h` behind them: `1y5m7d2h`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| {
            Error::Other(format!("{text:?} is not a span such as 1y5m7d2h (years, months, days, hours): {why}"))
        };
        let mut within = Self::default();
        let mut rest = text.trim();
        if rest.starts_with('-') {
            return Err(bad("it cannot be negative"));
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, unit) = rest.split_at(digits);
            let number: u32 = number.parse().map_err(|_| bad("a number is expected"))?;
            let field = match unit.bytes().next() {
                Some(b'y') => &mut within.years,
                Some(b'm') => &mut within.months,
                Some(b'd') => &mut within.days,
                Some(b'h') => &mut within.hours,
                Some(_) => return Err(bad("y, m, d and h are known")),
                None => return Err(bad("a number without a unit")),
            };
            *field = number;
            rest = &unit[1..];
        }
        Ok(within)
    }
}

/// What stays. Every rule keeps what it keeps; a snapshot that no rule keeps goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest.
    pub last: KeepCount,
    /// The newest of each hour.
    pub hourly: KeepCount,
    /// The newest of each day.
    pub daily: KeepCount,
    /// The newest of each ISO week.
    pub weekly: KeepCount,
    /// The newest of each month.
    pub monthly: KeepCount,
    /// The newest of each year.
    pub yearly: KeepCount,
    /// Everything that is less than this older than the newest.
    pub within: KeepWithin,
    /// Of that time, the newest of each hour.
    pub within_hourly: KeepWithin,
    /// Of that time, the newest of each day.
    pub within_daily: KeepWithin,
    /// Of that time, the newest of each ISO week.
    pub within_weekly: KeepWithin,
    /// Of that time, the newest of each month.
    pub within_monthly: KeepWithin,
    /// Of that time, the newest of each year.
    pub within_yearly: KeepWithin,
    /// Everything that has all tags of one of these lists.
    pub tags: Vec<Vec<String>>,
}

/// How many each rule keeps still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// `last`.
    #[serde(skip_serializing_if = "is_zero")]
    pub last: i64,
    /// `hourly`.
    #[serde(skip_serializing_if = "is_zero")]
    pub hourly: i64,
    /// `daily`.
    #[serde(skip_serializing_if = "is_zero")]
    pub daily: i64,
    /// `weekly`.
    #[serde(skip_serializing_if = "is_zero")]
    pub weekly: i64,
    /// `monthly`.
    #[serde(skip_serializing_if = "is_zero")]
    pub monthly: i64,
    /// `yearly`.
    #[serde(skip_serializing_if = "is_zero")]
    pub yearly: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Why a snapshot stays.
#[derive(Clone, Debug, PartialEq)]
pub struct KeepReason {
    /// Which one.
    pub id: Id,
    /// The same.
    pub snapshot: Snapshot,
    /// The rules that keep it, in restic's words.
    pub matches: Vec<String>,
    /// What the rules have left after it.
    pub counters: Counters,
}

/// Snapshots with their ids.
type List = Vec<(Id, Snapshot)>;

/// A bucket: snapshots with the same number belong into the same one.
type Bucket = fn(DateTime, usize) -> i64;

fn hour(time: DateTime, number: usize) -> i64 {
    day(time, number) * 100 + i64::from(time.hour())
}

fn day(time: DateTime, number: usize) -> i64 {
    month(time, number) * 100 + i64::from(time.day())
}

fn week(time: DateTime, _: usize) -> i64 {
    let week = time.date().iso_week_date();
    i64::from(week.year()) * 100 + i64::from(week.week())
}

fn month(time: DateTime, number: usize) -> i64 {
    year(time, number) * 100 + i64::from(time.month())
}

fn year(time: DateTime, _: usize) -> i64 {
    time.year().into()
}

fn always(_: DateTime, number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The zone that Go gives a time that it reads: the system's, if that has the offset in the text at that moment, else the
/// bare offset.
fn zone_of(time: &SnapshotTime, system: &TimeZone) -> TimeZone {
    let offset = offset_of(time.as_str());
    let stamp = Timestamp::new(time.time().seconds, 0).unwrap_or_default();
    if offset != 0 && system.to_offset(stamp).seconds() == offset {
        return system.clone();
    }
    Offset::from_seconds(offset).map_or(TimeZone::UTC, TimeZone::fixed)
}

/// The offset in seconds that an RFC 3339 text ends with.
fn offset_of(text: &str) -> i32 {
    let parts = text.len().checked_sub(6).and_then(|at| text.get(at..));
    let read = |tail: &str| {
        let sign = match tail.as_bytes().first()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let hours: i32 = tail.get(1..3)?.parse().ok()?;
        let minutes: i32 = tail.get(4..6)?.parse().ok()?;
        Some(sign * (hours * 3600 + minutes * 60))
    };
    parts.and_then(read).unwrap_or(0)
}

fn local(time: &SnapshotTime, zone: &TimeZone) -> DateTime {
    let point = time.time();
    Timestamp::new(point.seconds, 0).map_or_else(|_| DateTime::default(), |stamp| zone.to_datetime(stamp))
}

/// The newest of the times that are not in the future.
fn newest<'a>(times: impl Iterator<Item = &'a SnapshotTime>, now: Time) -> Option<&'a SnapshotTime> {
    times.filter(|time| time.time() < now).max_by_key(|time| time.time())
}

impl Policy {
    /// Whether it keeps nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Parts the snapshots of one group into those that stay and those that go, the newest first, with the reasons.
    #[must_use]
    pub fn apply(&self, snapshots: List) -> (List, List, Vec<KeepReason>) {
        self.apply_at(snapshots, now(), &TimeZone::system())
    }

    fn apply_at(&self, mut snapshots: List, now: Time, system: &TimeZone) -> (List, List, Vec<KeepReason>) {
        snapshots.sort_by_key(|(_, one)| std::cmp::Reverse(one.time.time()));
        let counts = |snapshot: &Snapshot| !snapshot.is_partial() && snapshot.protection(now).is_none();
        let whole = snapshots.iter().filter(|(_, snapshot)| counts(snapshot)).count();
        let latest = newest(snapshots.iter().filter(|(_, one)| !one.is_partial()).map(|(_, one)| &one.time), now)
            .map(|time| (time.time(), zone_of(time, system)));
        // Whole snapshots that are not in the future; Go's zero time stands for none.
        let begin = |within: &KeepWithin| match &latest {
            Some((time, zone)) => within.before(*time, zone),
            None => LONG_AGO,
        };
        let mut counted: [(KeepCount, Bucket, Option<i64>, &str); 6] = [
            (self.last, always, None, "last snapshot"),
            (self.hourly, hour, None, "hourly snapshot"),
            (self.daily, day, None, "daily snapshot"),
            (self.weekly, week, None, "weekly snapshot"),
            (self.monthly, month, None, "monthly snapshot"),
            (self.yearly, year, None, "yearly snapshot"),
        ];
        let mut spans: [(KeepWithin, Bucket, Option<i64>, &str); 5] = [
            (self.within_hourly, hour, None, "hourly within"),
            (self.within_daily, day, None, "daily within"),
            (self.within_weekly, week, None, "weekly within"),
            (self.within_monthly, month, None, "monthly within"),
            (self.within_yearly, year, None, "yearly within"),
        ];
        let (mut keep, mut remove, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
        let mut number = 0;
        for (id, snapshot) in snapshots {
            let time = snapshot.time.time();
            let mut matches = Vec::new();
            let protection = snapshot.protection(now);
            let protected = protection.is_some();
            matches.extend(protection);
            for list in &self.tags {
                let has = if list.is_empty() {
                    snapshot.tags.is_empty()
                } else {
                    list.iter().all(|tag| snapshot.tags.contains(tag))
                };
                if has {
                    matches.push(format!("has tags [{}]", list.join(", ")));
                }
            }
            if !self.within.is_zero() && time > begin(&self.within) {
                matches.push(format!("within {}", self.within));
            }
            if protected {
                // It stays in any case, so it takes nothing away from the others.
            } else if snapshot.is_partial() {
                if number == 0 && !self.is_empty() {
                    matches.push("partial, and newer than any whole snapshot".to_owned());
                }
            } else {
                let oldest = number + 1 == whole;
                let local = local(&snapshot.time, &zone_of(&snapshot.time, system));
                for (left, bucket, last, reason) in &mut counted {
                    if !left.is_left() {
                        continue;
                    }
                    let value = bucket(local, number);
                    if *last != Some(value) || oldest {
                        let again = *last == Some(value);
                        *last = Some(value);
                        if let KeepCount::Newest(left) = left {
                            *left -= 1;
                        }
                        matches.push(if again { format!("oldest {reason}") } else { (*reason).to_owned() });
                    }
                }
                for (within, bucket, last, reason) in &mut spans {
                    if within.is_zero() || time <= begin(within) {
                        continue;
                    }
                    let value = bucket(local, number);
                    if *last != Some(value) || oldest {
                        let again = if *last == Some(value) { "oldest " } else { "" };
                        *last = Some(value);
                        matches.push(format!("{again}{reason} {within}"));
                    }
                }
                number += 1;
            }
            if matches.is_empty() {
                remove.push((id, snapshot));
                continue;
            }
            let [last, hourly, daily, weekly, monthly, yearly] = counted.map(|(left, ..)| left.number());
            let counters = Counters { last, hourly, daily, weekly, monthly, yearly };
            reasons.push(KeepReason { id, snapshot: snapshot.clone(), matches, counters });
            keep.push((id, snapshot));
        }
        (keep, remove, reasons)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gotext::parse_time;

    fn at(text: &str) -> Time {
        parse_time(text).unwrap()
    }

    fn list(times: &[&str], partial: &[usize]) -> List {
        let one = |(number, time): (usize, &&str)| {
            let tags =
                if partial.contains(&number) { vec![crate::snapshot::PARTIAL_TAG.to_owned()] } else { Vec::new() };
            let time = serde_json::from_value(serde_json::Value::from(*time)).unwrap();
            (Id([number as u8; 32]), Snapshot { time, tags, ..Snapshot::default() })
        };
        times.iter().enumerate().map(one).collect()
    }

    fn numbers(list: &List) -> Vec<u8> {
        list.iter().map(|(id, _)| id.0[0]).collect()
    }

    #[test]
    fn spans_are_read_and_go_by_the_calendar() {
        let within: KeepWithin = "1y5m7d2h".parse().unwrap();
        assert_eq!(within, KeepWithin { years: 1, months: 5, days: 7, hours: 2 });
        assert_eq!(within.to_string(), "1y5m7d2h");
        for bad in ["1", "x", "1w", "-1d", "1y x"] {
            assert!(bad.parse::<KeepWithin>().is_err(), "{bad}");
        }
        let month: KeepWithin = "1m".parse().unwrap();
        // Go: the 31st of September is the 1st of October.
        assert_eq!(month.before(at("2020-10-31T12:00:00Z"), &TimeZone::UTC), at("2020-10-01T12:00:00Z"));
        assert_eq!(within.before(at("2020-03-05T01:00:00Z"), &TimeZone::UTC), at("2018-09-27T23:00:00Z"));
    }

    #[test]
    fn counts_are_read() {
        assert_eq!("unlimited".parse::<KeepCount>().unwrap(), KeepCount::All);
        assert_eq!("-1".parse::<KeepCount>().unwrap(), KeepCount::All);
        assert_eq!("0".parse::<KeepCount>().unwrap(), KeepCount::Off);
        assert_eq!("3".parse::<KeepCount>().unwrap(), KeepCount::Newest(3));
        assert!("-2".parse::<KeepCount>().is_err() && "many".parse::<KeepCount>().is_err());
    }

    #[test]
    fn a_day_is_one_in_the_zone_that_the_snapshot_names() {
        let policy = Policy { daily: KeepCount::Newest(1), ..Policy::default() };
        let times = ["2020-01-03T00:00:00Z", "2020-01-02T23:30:00+00:00", "2020-01-02T23:30:00+02:00"];
        let (keep, remove, reasons) = policy.apply_at(list(&times, &[]), at("2021-01-01T00:00:00Z"), &TimeZone::UTC);
        assert_eq!((numbers(&keep), numbers(&remove)), (vec![0], vec![1, 2]));
        assert_eq!(reasons[0].matches, ["daily snapshot"]);
        assert_eq!(reasons[0].counters, Counters::default());
    }

    #[test]
    fn the_oldest_snapshot_fills_a_count_that_is_left() {
        let policy = Policy { daily: KeepCount::Newest(5), ..Policy::default() };
        let times = ["2020-01-01T03:00:00Z", "2020-01-01T02:00:00Z", "2020-01-01T01:00:00Z"];
        let (keep, remove, reasons) = policy.apply_at(list(&times, &[]), at("2021-01-01T00:00:00Z"), &TimeZone::UTC);
        assert_eq!((numbers(&keep), numbers(&remove)), (vec![0, 2], vec![1]));
        assert_eq!(reasons[1].matches, ["oldest daily snapshot"]);
    }

    #[test]
    fn a_protected_snapshot_stays_and_uses_up_no_rule() {
        let policy = Policy { last: KeepCount::Newest(1), ..Policy::default() };
        let times = ["2020-01-05T00:00:00Z", "2020-01-04T00:00:00Z", "2020-01-03T00:00:00Z", "2020-01-02T00:00:00Z"];
        let mut snapshots = list(&times, &[]);
        snapshots[0].1.extra.insert("delete".to_owned(), "Never".into());
        let until = serde_json::json!({"After": "2021-06-01T00:00:00+00:00[UTC]"});
        snapshots[3].1.extra.insert("delete".to_owned(), until);
        let (keep, remove, reasons) = policy.apply_at(snapshots.clone(), at("2021-01-01T00:00:00Z"), &TimeZone::UTC);
        assert_eq!((numbers(&keep), numbers(&remove)), (vec![0, 1, 3], vec![2]));
        assert_eq!(reasons[0].matches, ["protected from deletion"]);
        assert_eq!(reasons[1].matches, ["last snapshot"]);
        assert_eq!(reasons[2].matches, ["protected from deletion until 2021-06-01T00:00:00+00:00"]);
        let (keep, ..) = policy.apply_at(snapshots.clone(), at("2022-01-01T00:00:00Z"), &TimeZone::UTC);
        assert_eq!(numbers(&keep), [0, 1]);
        // Nothing at all is wanted: what is protected stays.
        let (keep, ..) = Policy::default().apply_at(snapshots, at("2021-01-01T00:00:00Z"), &TimeZone::UTC);
        assert_eq!(numbers(&keep), [0, 3]);
    }

    #[test]
    fn a_partial_snapshot_uses_up_no_rule_and_stays_until_a_newer_whole_one_is_there() {
        let policy = Policy { last: KeepCount::Newest(2), ..Policy::default() };
        let times = [
            "2020-01-05T00:00:00Z",
            "2020-01-04T00:00:00Z",
            "2020-01-03T00:00:00Z",
            "2020-01-02T00:00:00Z",
            "2020-01-01T00:00:00Z",
        ];
        let (keep, remove, _) = policy.apply_at(list(&times, &[0, 2]), at("2021-01-01T00:00:00Z"), &TimeZone::UTC);
        assert_eq!((numbers(&keep), numbers(&remove)), (vec![0, 1, 3], vec![2, 4]));
        let within = Policy { within: "10d".parse().unwrap(), ..Policy::default() };
        let (keep, _, _) = within.apply_at(list(&times, &[0, 2]), at("2021-01-01T00:00:00Z"), &TimeZone::UTC);
        assert_eq!(numbers(&keep), [0, 1, 2, 3, 4]);
    }
}
