//! Numbers, times and tables as people read them, and the texts that people write for them.

use std::time::Duration;

use backstay_core::Time;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A number of bytes: `512 B`, `1.500 KiB`, `12.345 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    for (name, unit) in UNITS {
        if count >= unit {
            return format!("{:.3} {name}", count as f64 / unit as f64);
        }
    }
    format!("{count} B")
}

/// A length of time: `0:07`, `12:05`, `1:02:03`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let all = time.as_secs();
    let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// A number with its noun, in the singular where it is one: `1 file`, `3 files`.
#[must_use]
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Seconds and nanoseconds since 1970 in the local time zone, `2026-11-22 00:13:35`.
#[must_use]
pub fn local_time(seconds: i64, nanoseconds: u32) -> String {
    match Timestamp::new(seconds, nanoseconds.min(999_999_999).cast_signed()) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("@{seconds}"),
    }
}

/// Seconds and nanoseconds since 1970 as RFC 3339 text in the local time zone, as restic writes times into JSON.
#[must_use]
pub fn rfc3339(seconds: i64, nanoseconds: u32) -> String {
    let Ok(time) = Timestamp::new(seconds, nanoseconds.min(999_999_999).cast_signed()) else {
        return format!("@{seconds}");
    };
    let zoned = time.to_zoned(TimeZone::system());
    if zoned.offset().is_zero() {
        return time.to_string();
    }
    time.display_with_offset(zoned.offset()).to_string()
}

/// Reads a point in time: `YYYY-MM-DD`, `YYYY-MM-DD hh:mm[:ss[.fraction]]` (local), RFC 3339 with a zone, and what restic
/// takes besides: `DD.MM.YYYY` for the date, and an offset like `+0100`, or `UTC`, behind a blank.
///
/// # Errors
/// One line that says what is expected.
pub fn parse_time(text: &str) -> Result<Zoned, String> {
    let text = text.trim();
    if text == "now" {
        return Ok(Zoned::now());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.to_zoned(TimeZone::system()));
    }
    let in_utc = ["UTC", "GMT"].into_iter().find_map(|zone| Some(format!("{}+0000", text.strip_suffix(zone)?)));
    let with_offset = in_utc.as_deref().unwrap_or(text);
    for date in ["%Y-%m-%d", "%d.%m.%Y"] {
        if let Ok(time) = Timestamp::strptime(format!("{date} %H:%M:%S %z"), with_offset) {
            return Ok(time.to_zoned(TimeZone::system()));
        }
    }
    let local = text.parse::<DateTime>().ok().or_else(|| {
        ["%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M"]
            .into_iter()
            .find_map(|format| DateTime::strptime(format, text).ok())
            .or_else(|| Some(Date::strptime("%d.%m.%Y", text).ok()?.to_datetime(jiff::civil::Time::midnight())))
    });
    local
        .and_then(|local| local.to_zoned(TimeZone::system()).ok())
        .ok_or_else(|| "a time like \"2026-11-22 13:45:00\" (local) or \"2026-11-22T13:45:00Z\" is expected".to_owned())
}

/// A point in time as snapshots and nodes have it.
#[must_use]
pub fn point(time: &Zoned) -> Time {
    let (mut seconds, mut nanoseconds) = (time.timestamp().as_second(), time.timestamp().subsec_nanosecond());
    if nanoseconds < 0 {
        seconds -= 1;
        nanoseconds += 1_000_000_000;
    }
    Time { seconds, nanoseconds: nanoseconds.unsigned_abs() }
}

/// Reads a length of time: a number of seconds, or numbers with `d`, `h`, `m`, `s`, `ms` as in `1h30m`.
///
/// # Errors
/// One line that says what is expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || "a length of time like 30s, 5m or 1h30m is expected".to_owned();
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    if let Ok(seconds) = rest.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let after = &rest[digits..];
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let milliseconds = match &after[..letters] {
            "d" => 86_400_000,
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return Err(bad()),
        };
        let part = number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(bad)?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = &after[letters..];
    }
    Ok(total)
}

/// Reads a number of bytes: digits, with `k`, `m`, `g` or `t` for powers of 1024.
///
/// # Errors
/// One line that says what is expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || "a size like 4096, 64K, 100M or 2G is expected".to_owned();
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let unit: u64 = match text[digits..].to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err(bad()),
    };
    number.checked_mul(unit).ok_or_else(bad)
}

/// A path as a person may see it: bytes that are not UTF-8 and control characters become visible escapes, so that a
/// name can neither break a line nor drive the terminal.
#[must_use]
pub fn path(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Rows under headings, columns padded to their widest cell; the last column is not padded.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.lines().map(|line| line.chars().count()).max().unwrap_or(0).max(*width);
        }
    }
    let mut out = String::new();
    let mut line = |cells: &[&str]| {
        let mut text = String::new();
        for (position, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            if position > 0 {
                text.push_str("  ");
            }
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    let total = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
    let rule = "-".repeat(total);
    line(headings);
    line(&[&rule]);
    for row in rows {
        let cells: Vec<Vec<&str>> = row.iter().map(|cell| cell.lines().collect()).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0).max(1);
        for at in 0..height {
            line(&cells.iter().map(|lines| lines.get(at).copied().unwrap_or("")).collect::<Vec<_>>());
        }
    }
    line(&[&rule]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print_in_powers_of_1024() {
        assert_eq!(parse_size("100"), Ok(100));
        assert_eq!(parse_size("4k"), Ok(4096));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert!(parse_size("G").is_err());
        assert!(parse_size("-1").is_err());
        assert!(parse_size("99999999999T").is_err());
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.500 KiB");
    }

    #[test]
    fn lengths_of_time_read_with_units_and_without() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["", "h", "5x", "1h30", "-3s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(duration(Duration::from_secs(3723)), "1:02:03");
        assert_eq!(duration(Duration::from_secs(7)), "0:07");
    }

    #[test]
    fn times_read_as_local_or_with_a_zone() {
        assert_eq!(parse_time("2026-11-22T13:45:00Z").unwrap().timestamp().as_second(), 1_795_355_100);
        assert!(parse_time("2026-11-22 13:45:00").is_ok());
        assert!(parse_time("2026-11-22").is_ok());
        assert!(parse_time("2026-11-22 13:45").is_ok());
        for same in [
            "2026-11-22 14:45:00 +0100",
            "22.11.2026 14:45:00 +0100",
            "22.11.2026 13:45:00 UTC",
            "2026-11-22 13:45:00 GMT",
        ] {
            assert_eq!(parse_time(same).unwrap().timestamp().as_second(), 1_795_355_100, "{same}");
        }
        for (one, other) in [
            ("22.11.2026", "2026-11-22"),
            ("22.11.2026 13:45", "2026-11-22 13:45"),
            ("22.11.2026 13:45:06", "2026-11-22 13:45:06"),
        ] {
            assert_eq!(parse_time(one), parse_time(other), "{one}");
            assert!(parse_time(one).is_ok(), "{one}");
        }
        assert!(parse_time("yesterday").is_err());
        assert!(parse_time("31.02.2026").is_err());
    }

    #[test]
    fn a_name_cannot_break_the_line() {
        assert_eq!(path(b"a\nb\x1b[31m\xff\xc3\xa9"), "a\\nb\\u{1b}[31m\\xff\u{e9}");
    }

    #[test]
    fn a_table_pads_all_but_the_last_column() {
        let text = table(&["ID", "Paths"], &[vec!["a1".into(), "/x\n/y".into()]]);
        assert_eq!(text, "ID  Paths\n---------\na1  /x\n    /y\n---------\n");
    }
}
