//! Times written after a sample, as Go's `time.Format` does it and as restic's `--time-template` takes it: the sample is the
//! moment `Mon Jan 2 15:04:05 MST 2006`, whose parts stand for the same parts of any other moment.

use backstay_repository::snapshot::SnapshotTime;
use jiff::Timestamp;
use jiff::tz::Offset;

/// What stands in a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// jiff's (and C's) conversion for it.
    Conversion(&'static str),
    /// The offset: whether zero is `Z`, whether there is a colon, and whether minutes and seconds are shown.
    Offset { z: bool, colon: bool, fields: u8 },
    /// The zone's name; a saved time has none but UTC.
    Zone,
    /// A fraction of this many digits; `trim` leaves out zeros at the end.
    Fraction { digits: usize, trim: bool },
}

/// Samples and their meaning; what begins with another one stands before it.
const PARTS: [(&str, Part); 34] = [
    ("January", Part::Conversion("%B")),
    ("Jan", Part::Conversion("%b")),
    ("Monday", Part::Conversion("%A")),
    ("Mon", Part::Conversion("%a")),
    ("MST", Part::Zone),
    ("2006", Part::Conversion("%Y")),
    ("002", Part::Conversion("%j")),
    ("01", Part::Conversion("%m")),
    ("02", Part::Conversion("%d")),
    ("03", Part::Conversion("%I")),
    ("04", Part::Conversion("%M")),
    ("05", Part::Conversion("%S")),
    ("06", Part::Conversion("%y")),
    ("15", Part::Conversion("%H")),
    ("1", Part::Conversion("%-m")),
    ("2", Part::Conversion("%-d")),
    ("3", Part::Conversion("%-I")),
    ("4", Part::Conversion("%-M")),
    ("5", Part::Conversion("%-S")),
    ("__2", Part::Conversion("%_j")),
    ("_2006", Part::Conversion("_%Y")),
    ("_2", Part::Conversion("%e")),
    ("PM", Part::Conversion("%p")),
    ("pm", Part::Conversion("%P")),
    ("-07:00:00", Part::Offset { z: false, colon: true, fields: 3 }),
    ("-07:00", Part::Offset { z: false, colon: true, fields: 2 }),
    ("-070000", Part::Offset { z: false, colon: false, fields: 3 }),
    ("-0700", Part::Offset { z: false, colon: false, fields: 2 }),
    ("-07", Part::Offset { z: false, colon: false, fields: 1 }),
    ("Z07:00:00", Part::Offset { z: true, colon: true, fields: 3 }),
    ("Z07:00", Part::Offset { z: true, colon: true, fields: 2 }),
    ("Z070000", Part::Offset { z: true, colon: false, fields: 3 }),
    ("Z0700", Part::Offset { z: true, colon: false, fields: 2 }),
    ("Z07", Part::Offset { z: true, colon: false, fields: 1 }),
];

/// The sample of restic, and ours: seconds, and the offset in which the snapshot's time was saved.
pub const DEFAULT: &str = "2006-01-02T15:04:05Z07:00";

/// Writes `time`, in the offset in which it was saved, after `sample`.
#[must_use]
pub fn format(time: &SnapshotTime, sample: &str) -> String {
    let instant = time.time();
    let offset = offset(time.as_str());
    let Ok(timestamp) = Timestamp::new(instant.seconds, instant.nanoseconds.cast_signed()) else {
        return time.as_str().replace('/', "_");
    };
    let zoned = timestamp.to_zoned(offset.to_time_zone());
    let mut out = String::new();
    let mut rest = sample;
    while let Some(first) = rest.chars().next() {
        if let Some((length, digits, trim)) = fraction(rest) {
            push(&mut out, Part::Fraction { digits, trim }, &zoned, &rest[..1]);
            rest = &rest[length..];
        } else if let Some((text, part)) = PARTS.iter().find(|(text, _)| starts(rest, text)) {
            push(&mut out, *part, &zoned, "");
            rest = &rest[text.len()..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// Whether a sample stands here. Go takes `Jan` and `Mon` only where no small letter follows.
fn starts(rest: &str, text: &str) -> bool {
    rest.starts_with(text)
        && !(matches!(text, "Jan" | "Mon") && rest[text.len()..].starts_with(|c: char| c.is_ascii_lowercase()))
}

/// A point or a comma with zeros or nines and no further digit: its length in bytes, the digits, and whether they are
/// trimmed.
fn fraction(rest: &str) -> Option<(usize, usize, bool)> {
    let digits = rest.strip_prefix(['.', ','])?;
    let kind = digits.chars().next().filter(|c| matches!(c, '0' | '9'))?;
    let count = digits.len() - digits.trim_start_matches(kind).len();
    if count > 9 || digits[count..].starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    Some((1 + count, count, kind == '9'))
}

fn push(out: &mut String, part: Part, zoned: &jiff::Zoned, point: &str) {
    let seconds = zoned.offset().seconds();
    match part {
        Part::Conversion(conversion) => out.push_str(&zoned.strftime(conversion).to_string()),
        Part::Zone if seconds == 0 => out.push_str("UTC"),
        Part::Zone => push(out, Part::Offset { z: false, colon: false, fields: 2 }, zoned, point),
        Part::Offset { z: true, .. } if seconds == 0 => out.push('Z'),
        Part::Offset { colon, fields, .. } => {
            let all = seconds.unsigned_abs();
            out.push(if seconds < 0 { '-' } else { '+' });
            let values = [all / 3600, all / 60 % 60, all % 60];
            for (at, value) in values.iter().take(fields.into()).enumerate() {
                if colon && at > 0 {
                    out.push(':');
                }
                out.push_str(&format!("{value:02}"));
            }
        }
        Part::Fraction { digits, trim } => {
            let text = format!("{:09}", zoned.subsec_nanosecond());
            let text = &text[..digits];
            let text = if trim { text.trim_end_matches('0') } else { text };
            if !text.is_empty() {
                out.push_str(point);
                out.push_str(text);
            }
        }
    }
}

/// The offset at the end of an RFC 3339 text; zero where there is none.
fn offset(text: &str) -> Offset {
    let parse = || {
        let at = text.len().checked_sub(6)?;
        let (sign, hours, minutes) = (text.get(at..=at)?, text.get(at + 1..at + 3)?, text.get(at + 4..)?);
        let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
        match sign {
            "+" => Offset::from_seconds(seconds).ok(),
            "-" => Offset::from_seconds(-seconds).ok(),
            _ => None,
        }
    };
    if text.ends_with(['Z', 'z']) { Offset::UTC } else { parse().unwrap_or(Offset::UTC) }
}

#[cfg(test)]
mod tests {
    use backstay_repository::snapshot::SnapshotTime;

    use super::*;

    fn time(text: &str) -> SnapshotTime {
        serde_json::from_value(text.into()).unwrap()
    }

    #[test]
    fn the_default_is_restics() {
        assert_eq!(format(&time("2026-11-22T14:45:00.123456789+01:00"), DEFAULT), "2026-11-22T14:45:00+01:00");
        assert_eq!(format(&time("2026-11-22T13:45:00.1Z"), DEFAULT), "2026-11-22T13:45:00Z");
        assert_eq!(format(&time("2026-11-22T10:15:00-03:30"), DEFAULT), "2026-11-22T10:15:00-03:30");
    }

    #[test]
    fn samples_are_read_as_go_reads_them() {
        let moment = time("2006-09-05T07:08:09.010200000+02:00");
        for (sample, expected) in [
            ("2006-01-02_15-04-05", "2006-09-05_07-08-09"),
            ("Mon Jan 2 15:04:05 -0700 MST 2006", "Tue Sep 5 07:08:09 +0200 +0200 2006"),
            ("Monday, 02-Jan-06 15:04:05 MST", "Tuesday, 05-Sep-06 07:08:09 +0200"),
            ("January _2 3:4:5 PM pm", "September  5 7:8:9 AM am"),
            ("1/2 002 __2", "9/5 248 248"),
            ("05.000 05.999999 05.999999999", "09.010 09.0102 09.0102"),
            ("20060102T150405Z0700", "20060905T070809+0200"),
            ("Month Janet", "Month Janet"),
            ("20 07 é", "50 07 é"),
        ] {
            assert_eq!(format(&moment, sample), expected, "{sample}");
        }
        let utc = time("2006-09-05T07:08:09Z");
        assert_eq!(format(&utc, "MST Z07 -07:00:00 .999"), "UTC Z +00:00:00 ");
    }
}
