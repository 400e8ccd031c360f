//! What names, intervals and sizes mean (bakthat reference, sections 3, 4.7 and 8).

use jiff::civil::DateTime;

/// What the name of a stored object tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredName<'a> {
    /// What was backed up.
    pub name: &'a str,
    /// The clock of UTC when it was.
    pub clock: DateTime,
    /// `.tgz`, `.tar` or nothing.
    pub kind: &'a str,
    /// `.enc`, `.age` or nothing.
    pub container: &'a str,
}

/// A text without the first of these endings that it has, and that ending.
fn cut<'a>(text: &'a str, endings: &[&'a str]) -> (&'a str, &'a str) {
    endings.iter().find_map(|ending| Some((text.strip_suffix(ending)?, *ending))).unwrap_or((text, ""))
}

/// Takes a text apart whose end is this many digits.
fn dated(text: &str, digits: usize) -> Option<(&str, &str)> {
    let at = text.len().checked_sub(digits)?;
    text.as_bytes()[at..].iter().all(u8::is_ascii_digit).then(|| text.split_at(at))
}

/// `YYYYMMDD`, with `HHMMSS` or without.
fn clock(digits: &str) -> Option<DateTime> {
    let number = |from: usize, to: usize| digits.get(from..to).map_or(Some(0), |part| part.parse::<i8>().ok());
    let year: i16 = digits.get(..4)?.parse().ok().filter(|year| *year > 0)?;
    let (month, day) = (number(4, 6)?, number(6, 8)?);
    DateTime::new(year, month, day, number(8, 10)?, number(10, 12)?, number(12, 14)?, 0).ok()
}

/// Reads a stored name; releases before 0.4.0 wrote no dot before the date, and perhaps no time after it.
#[must_use]
pub fn parse(stored: &str) -> Option<StoredName<'_>> {
    let (rest, container) = cut(stored, &[".enc", ".age"]);
    let (rest, kind) = cut(rest, &[".tgz", ".tar"]);
    if let Some((name, date)) = dated(rest, 14)
        && let Some(name) = name.strip_suffix('.').filter(|name| !name.is_empty())
    {
        return Some(StoredName { name, clock: clock(date)?, kind, container });
    }
    if kind != ".tgz" || container == ".age" {
        return None;
    }
    let (name, date) = [14, 8].iter().find_map(|digits| dated(rest, *digits).filter(|(name, _)| !name.is_empty()))?;
    Some(StoredName { name, clock: clock(date)?, kind, container })
}

/// Whether an object of this name is unpacked when it is restored.
#[must_use]
pub fn is_archive(stored: &str) -> bool {
    let (rest, _) = cut(stored, &[".enc", ".age"]);
    !cut(rest, &[".tgz", ".tar"]).1.is_empty()
}

/// The seconds of an interval such as `1M3W4h2s`.
#[must_use]
pub fn interval(text: &str) -> Option<u64> {
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..unit].parse().ok().filter(|number| *number > 0)?;
        let length = match rest.as_bytes()[unit] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'D' => 86_400,
            b'W' => 604_800,
            b'M' => 2_592_000,
            b'Y' => 31_536_000,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(length)?)?;
        rest = &rest[unit + 1..];
    }
    (seconds > 0).then_some(seconds)
}

/// A size by thousands, whole where it is a whole multiple: `3.1 KB`, `1 KB`.
#[must_use]
pub fn size_text(size: u128) -> String {
    let units = ["B", "KB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
    let mut unit = 1_u128;
    let mut names = units.iter().peekable();
    let mut name = *names.next().unwrap_or(&"");
    while names.peek().is_some() && size >= unit * 1000 {
        unit *= 1000;
        name = names.next().unwrap_or(&name);
    }
    if size.is_multiple_of(unit) {
        return format!("{} {name}", size / unit);
    }
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let shown = size as f64 / unit as f64;
    format!("{shown:.1} {name}")
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn stored_names_tell_name_date_kind_and_container() {
        let at = date(2024, 2, 3).at(4, 5, 6, 0);
        for (stored, name, clock, kind, container) in [
            ("a.20240203040506.tgz", "a", at, ".tgz", ""),
            ("a.tgz.20240203040506.tgz.enc", "a.tgz", at, ".tgz", ".enc"),
            ("a.20240203040506", "a", at, "", ""),
            ("a.20240203040506.tar.age", "a", at, ".tar", ".age"),
            ("a.20240203040506.enc", "a", at, "", ".enc"),
            ("a.20230101000000.20240203040506.tgz", "a.20230101000000", at, ".tgz", ""),
            ("name20120927.tgz", "name", date(2012, 9, 27).at(0, 0, 0, 0), ".tgz", ""),
            ("name20240203040506.tgz.enc", "name", at, ".tgz", ".enc"),
            ("a\nb.20240203040506.tgz", "a\nb", at, ".tgz", ""),
        ] {
            assert_eq!(parse(stored), Some(StoredName { name, clock, kind, container }), "{stored}");
        }
    }

    #[test]
    fn other_names_tell_nothing() {
        for stored in [
            "key",
            "a.20241303040506.tgz",
            "a.20240230040506.tgz",
            "a.00000203040506.tgz",
            "a.2024020304050.tgz",
            "name20240203040506",
            "name20240203.tgz.age",
            "20240203.tgz",
            "",
        ] {
            assert_eq!(parse(stored), None, "{stored}");
        }
    }

    #[test]
    fn archives_are_told_by_the_end_of_their_names() {
        for (stored, is) in [("a.tgz", true), ("a.tar.age", true), ("a.tgz.enc", true), ("a", false), ("a.enc", false)]
        {
            assert_eq!(is_archive(stored), is, "{stored}");
        }
    }

    #[test]
    fn intervals_are_numbers_with_units() {
        for (text, seconds) in [("3M2D10h", 7_984_800), ("1s", 1), ("01m", 60), ("1Y1Y", 63_072_000), ("1W", 604_800)] {
            assert_eq!(interval(text), Some(seconds), "{text}");
        }
        for text in ["", "0s", "1", "s", "1 s", "-1s", "1.5h", "1d", "1h0m", "1h ", "99999999999999999999s"] {
            assert_eq!(interval(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_whole_or_have_one_decimal() {
        for (size, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (224, "224 B"),
            (999, "999 B"),
            (1000, "1 KB"),
            (1001, "1.0 KB"),
            (3100, "3.1 KB"),
            (999_950, "1000.0 KB"),
            (4_200_000, "4.2 MB"),
            (2 * 10_u128.pow(24), "2 YB"),
            (3 * 10_u128.pow(27), "3000 YB"),
        ] {
            assert_eq!(size_text(size), text);
        }
    }
}
