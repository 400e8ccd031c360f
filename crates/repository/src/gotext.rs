//! Text as Go writes it: quoted names, JSON strings, times (reference sections 10.4 and 10.6).
//!
//! Trees are only shared with restic, and only accepted by `restic rewrite`, when every byte is the one that Go's
//! libraries would have written.

use std::io;

use backstay_core::Time;
use serde::Serialize;

mod printable;

/// Bytes that both layers leave alone.
const PLAIN: [bool; 128] = {
    let mut plain = [false; 128];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = !matches!(byte as u8, b'"' | b'\\' | b'<' | b'>' | b'&');
        byte += 1;
    }
    plain
};

/// Whether Go's `strconv.IsPrint` holds for this code point.
#[must_use]
pub fn is_printable(c: char) -> bool {
    let code = u32::from(c);
    if code < 0x80 {
        return (0x20..0x7f).contains(&code);
    }
    let after = printable::RANGES.partition_point(|(first, _)| *first <= code);
    after > 0 && code <= printable::RANGES[after - 1].1
}

/// Appends a file name as a JSON string: quoted as Go's `strconv.Quote` does (without its quotes), then as JSON.
pub fn write_name(name: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if name.iter().all(|byte| PLAIN.get(usize::from(*byte)).is_some_and(|plain| *plain)) {
        out.extend_from_slice(name);
    } else {
        let mut quoted = Vec::with_capacity(name.len() * 2);
        quote(name, &mut quoted);
        write_json_fragment(&quoted, out);
    }
    out.push(b'"');
}

/// Appends any other string as JSON. Bytes that are not UTF-8 become U+FFFD.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    write_json_fragment(text, out);
    out.push(b'"');
}

/// Go's `strconv.Quote` without the quotes around.
fn quote(name: &[u8], out: &mut Vec<u8>) {
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            let simple = match c {
                '"' => b'"',
                '\\' => b'\\',
                '\x07' => b'a',
                '\x08' => b'b',
                '\x0c' => b'f',
                '\n' => b'n',
                '\r' => b'r',
                '\t' => b't',
                '\x0b' => b'v',
                _ => 0,
            };
            let code = u32::from(c);
            if simple != 0 {
                out.extend_from_slice(&[b'\\', simple]);
            } else if is_printable(c) {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            } else if code < 0x80 {
                escape(b'x', code, 2, out);
            } else if code <= 0xffff {
                escape(b'u', code, 4, out);
            } else {
                escape(b'U', code, 8, out);
            }
        }
        for byte in chunk.invalid() {
            escape(b'x', u32::from(*byte), 2, out);
        }
    }
}

fn escape(letter: u8, code: u32, digits: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'\\', letter]);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(code >> (4 * digit) & 15) as usize]);
    }
}

fn write_json_fragment(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        let mut written = 0;
        for (at, byte) in valid.iter().enumerate() {
            let width = match byte {
                b'"' | b'\\' | b'<' | b'>' | b'&' | 0..0x20 => 1,
                // U+2028 and U+2029 end lines in JavaScript.
                0xe2 if matches!(valid[at + 1..], [0x80, 0xa8 | 0xa9, ..]) => 3,
                _ => continue,
            };
            out.extend_from_slice(&valid[written..at]);
            written = at + width;
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0x08 => out.extend_from_slice(b"\\b"),
                0x0c => out.extend_from_slice(b"\\f"),
                0xe2 => escape(b'u', 0x2000 + u32::from(valid[at + 2] & 0x3f), 4, out),
                _ => escape(b'u', u32::from(*byte), 4, out),
            }
        }
        out.extend_from_slice(&valid[written..]);
        // Go replaces every single byte that does not belong to a character.
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// The bytes of a quoted name. Accepts every escape of Go, and the quotes that rustic escapes.
///
/// # Errors
/// The name itself, when an escape in it is not one.
pub fn unquote(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let after = &rest[at + 1..];
        let used = unquote_escape(after, &mut out).ok_or_else(|| text.to_owned())?;
        rest = &after[used..];
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

/// Decodes what follows a backslash; returns how many bytes it was.
fn unquote_escape(text: &str, out: &mut Vec<u8>) -> Option<usize> {
    let number = |from: usize, digits: usize, radix: u32| {
        let digits = text.get(from..from + digits)?;
        // The standard parser would take a sign.
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, radix).ok())?
    };
    let letter = text.bytes().next()?;
    let (byte, used) = match letter {
        b'a' => (7, 1),
        b'b' => (8, 1),
        b'f' => (12, 1),
        b'n' => (b'\n', 1),
        b'r' => (b'\r', 1),
        b't' => (b'\t', 1),
        b'v' => (11, 1),
        b'\\' | b'"' | b'\'' | b'`' => (letter, 1),
        b'x' => (u8::try_from(number(1, 2, 16)?).ok()?, 3),
        b'0'..=b'7' => (u8::try_from(number(0, 3, 8)?).ok()?, 3),
        b'u' | b'U' => {
            let digits = if letter == b'u' { 4 } else { 8 };
            let c = char::from_u32(number(1, digits, 16)?)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(1 + digits);
        }
        _ => return None,
    };
    out.push(byte);
    Some(used)
}

/// Writes a value as JSON with Go's escapes and without spaces.
///
/// # Errors
/// What the value's own serialisation says; the repository's own types never fail.
pub fn to_json<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, GoFormatter))?;
    Ok(out)
}

/// serde_json's compact form with the escapes that Go adds.
struct GoFormatter;

impl serde_json::ser::Formatter for GoFormatter {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut out = Vec::with_capacity(fragment.len());
        write_json_fragment(fragment.as_bytes(), &mut out);
        writer.write_all(&out)
    }
}

const SECONDS_PER_DAY: i64 = 86_400;

/// The year, month and day of a day counted from 1970-01-01 (proleptic Gregorian calendar).
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day as u32)
}

/// The day counted from 1970-01-01 of a year, month and day.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month = i64::from(month);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Appends a time in UTC: `2026-11-21T22:57:39.549068798Z`, without the quotes of JSON. Years outside 0 to 9999 are
/// replaced by the nearest of these, as restic does.
pub fn write_time(time: Time, out: &mut Vec<u8>) {
    let two = |number: u32, out: &mut Vec<u8>| {
        out.extend_from_slice(&[b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]);
    };
    let (mut year, mut month, mut day) = civil_from_days(time.seconds.div_euclid(SECONDS_PER_DAY));
    if !(0..=9999).contains(&year) {
        year = year.clamp(0, 9999);
        if year == 9999 && (month, day) == (2, 29) {
            (month, day) = (3, 1);
        }
    }
    let second = time.seconds.rem_euclid(SECONDS_PER_DAY) as u32;
    two((year / 100) as u32, out);
    two((year % 100) as u32, out);
    for (mark, number) in
        [(b'-', month), (b'-', day), (b'T', second / 3600), (b':', second / 60 % 60), (b':', second % 60)]
    {
        out.push(mark);
        two(number, out);
    }
    if time.nanoseconds > 0 {
        out.push(b'.');
        let mut rest = time.nanoseconds % 1_000_000_000;
        let mut unit = 100_000_000;
        while rest > 0 {
            out.push(b'0' + (rest / unit) as u8);
            rest %= unit;
            unit /= 10;
        }
    }
    out.push(b'Z');
}

/// Reads a time as RFC 3339 has it, with any offset; a blank for the `T` and no offset (which means UTC) are taken too.
#[must_use]
pub fn parse_time(text: &str) -> Option<Time> {
    let bytes = text.as_bytes();
    let number = |from: usize, count: usize| -> Option<u32> {
        bytes
            .get(from..from + count)?
            .iter()
            .try_fold(0_u32, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u32::from(digit - b'0')))
    };
    let mark = |at: usize, allowed: &[u8]| bytes.get(at).is_some_and(|byte| allowed.contains(byte)).then_some(());
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    mark(4, b"-")?;
    mark(7, b"-")?;
    mark(10, b"Tt ")?;
    mark(13, b":")?;
    mark(16, b":")?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days_in_month).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut nanoseconds = 0;
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let kept = digits.min(9);
        nanoseconds = number(at, kept)? * 10_u32.pow(9 - kept as u32);
        at += digits;
    }
    let offset = match bytes.get(at) {
        None => 0,
        Some(b'Z' | b'z') if at + 1 == bytes.len() => 0,
        Some(sign @ (b'+' | b'-')) if at + 6 == bytes.len() => {
            mark(at + 3, b":")?;
            let seconds = i64::from(number(at + 1, 2)? * 3600 + number(at + 4, 2)? * 60);
            if *sign == b'-' { -seconds } else { seconds }
        }
        Some(_) => return None,
    };
    let days = days_from_civil(i64::from(year), month, day);
    let seconds = days * SECONDS_PER_DAY + i64::from(hour * 3600 + minute * 60 + second) - offset;
    Some(Time { seconds, nanoseconds })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(raw: &[u8]) -> String {
        let mut out = Vec::new();
        write_name(raw, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn string(raw: &[u8]) -> String {
        let mut out = Vec::new();
        write_string(raw, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn time(text: &str) -> String {
        let mut out = Vec::new();
        write_time(parse_time(text).unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names_are_quoted_like_go_then_like_json() {
        for (raw, expected) in [
            (&b"plain name.txt"[..], r#""plain name.txt""#),
            (b"<&>", r#""\u003c\u0026\u003e""#),
            (b"q\"u\\", r#""q\\\"u\\\\""#),
            (b"it's `so`", r#""it's `so`""#),
            (b"\x07\x08\x0c\n\r\t\x0b", r#""\\a\\b\\f\\n\\r\\t\\v""#),
            (b"\x01\x1f\x7f", r#""\\x01\\x1f\\x7f""#),
            (b"caf\xe9", r#""caf\\xe9""#),
            (b"\xff\xfe", r#""\\xff\\xfe""#),
            // A surrogate, an over-long slash, beyond U+10FFFF: each byte for itself.
            (b"\xed\xa0\x80", r#""\\xed\\xa0\\x80""#),
            (b"\xc0\xaf", r#""\\xc0\\xaf""#),
            (b"\xf4\x90\x80\x80", r#""\\xf4\\x90\\x80\\x80""#),
            (b"\xe2\x82", r#""\\xe2\\x82""#),
        ] {
            assert_eq!(name(raw), expected);
        }
        for (c, expected) in [
            ('\u{a0}', r"\\u00a0"),
            ('\u{ad}', r"\\u00ad"),
            ('\u{200b}', r"\\u200b"),
            ('\u{2028}', r"\\u2028"),
            ('\u{3000}', r"\\u3000"),
            ('\u{e000}', r"\\ue000"),
            ('\u{feff}', r"\\ufeff"),
            ('\u{378}', r"\\u0378"),
            ('\u{10ffff}', r"\\U0010ffff"),
            ('\u{e0001}', r"\\U000e0001"),
            ('\u{fffd}', "\u{fffd}"),
            ('\u{1f600}', "\u{1f600}"),
            ('\u{e9}', "\u{e9}"),
            ('\u{301}', "\u{301}"),
            ('\u{20ac}', "\u{20ac}"),
        ] {
            assert_eq!(name(c.to_string().as_bytes()), format!("\"{expected}\""), "U+{:04x}", u32::from(c));
        }
    }

    #[test]
    fn other_strings_are_quoted_like_json_only() {
        assert_eq!(
            string(b"a\"\\\n\r\t<>&\x08\x0c\x01\x7f"),
            "\"a\\\"\\\\\\n\\r\\t\\u003c\\u003e\\u0026\\b\\f\\u0001\x7f\""
        );
        assert_eq!(
            string("\u{2028}\u{2029}\u{202a}\u{a0}\u{20ac}".as_bytes()),
            "\"\\u2028\\u2029\u{202a}\u{a0}\u{20ac}\""
        );
        assert_eq!(string(b"x\xff\xe2\x80y"), "\"x\\ufffd\\ufffd\\ufffdy\"");
        assert_eq!(to_json(&["<a>\u{2028}", "b"]).unwrap(), br#"["\u003ca\u003e\u2028","b"]"#);
    }

    #[test]
    fn every_escape_is_read() {
        for (text, raw) in [
            (r#"\a\b\f\n\r\t\v\\\"\'\`"#, &b"\x07\x08\x0c\n\r\t\x0b\\\"'`"[..]),
            (r"\xff\x00\101", b"\xff\x00A"),
            (r"\u00e9\U0001f600", "\u{e9}\u{1f600}".as_bytes()),
            ("raw \u{e9}\n", "raw \u{e9}\n".as_bytes()),
        ] {
            assert_eq!(unquote(text).unwrap(), raw, "{text}");
        }
        for text in [r"\", r"\q", r"\x1", r"\x+1", r"\u12", r"\ud800", r"\U00110000", r"\400", r"\9", "\\x1\u{e9}"] {
            assert_eq!(unquote(text), Err(text.to_owned()));
        }
    }

    #[test]
    fn times_are_written_like_go() {
        for text in [
            "2026-11-21T22:57:39.549068798Z",
            "1901-12-13T20:45:52Z",
            "2020-01-02T03:04:05.1Z",
            "2020-01-02T03:04:05.001Z",
            "2020-01-02T03:04:05.000000001Z",
            "1969-12-31T23:59:59.999999999Z",
            "0001-01-01T00:00:00Z",
            "0000-02-29T00:00:00Z",
            "9999-12-31T23:59:59.999999999Z",
            "2000-02-29T12:00:00Z",
            "1900-02-28T12:00:00Z",
        ] {
            assert_eq!(time(text), text);
        }
        assert_eq!(parse_time("1970-01-01T00:00:00Z"), Some(Time::default()));
        assert_eq!(parse_time("1969-12-31T23:59:59.5Z"), Some(Time { seconds: -1, nanoseconds: 500_000_000 }));
        assert_eq!(parse_time("0001-01-01T00:00:00Z"), Some(crate::tree::NO_TIME));
    }

    #[test]
    fn offsets_and_rustics_forms_are_read() {
        assert_eq!(time("2020-01-02T03:04:05.120+02:30"), "2020-01-02T00:34:05.12Z");
        assert_eq!(time("2020-01-01T00:00:00-01:00"), "2020-01-01T01:00:00Z");
        assert_eq!(time("2020-01-02T03:04:05+00:00"), "2020-01-02T03:04:05Z");
        assert_eq!(time("2020-01-02 03:04:05"), "2020-01-02T03:04:05Z");
        for text in [
            "",
            "2020",
            "2020-13-01T00:00:00Z",
            "2020-02-30T00:00:00Z",
            "2021-02-29T00:00:00Z",
            "2020-01-00T00:00:00Z",
            "2020-01-01T24:00:00Z",
            "2020-01-01T00:00:00.Z",
            "2020-01-01T00:00:00Zx",
            "2020-01-01T00:00:00+1:00",
            "+020-01-01T00:00:00Z",
            "2020-01-01T00:00:00\u{e9}",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn years_that_cannot_be_written_are_replaced_by_the_nearest() {
        let write = |seconds| {
            let mut out = Vec::new();
            write_time(Time { seconds, nanoseconds: 0 }, &mut out);
            String::from_utf8(out).unwrap()
        };
        let year_10000 = parse_time("9999-12-31T23:59:59Z").unwrap().seconds + 1;
        assert_eq!(write(year_10000), "9999-01-01T00:00:00Z");
        // The 29 February of the year 10000 is no day of the year 9999.
        assert_eq!(write(year_10000 + 59 * SECONDS_PER_DAY), "9999-03-01T00:00:00Z");
        let year_0 = parse_time("0000-01-01T00:00:00Z").unwrap().seconds;
        assert_eq!(write(year_0 - 1), "0000-12-31T23:59:59Z");
        for extreme in [i64::MIN, i64::MAX] {
            let text = write(extreme);
            assert!(text.starts_with(if extreme < 0 { "0000-" } else { "9999-" }), "{text}");
            assert!(parse_time(&text).is_some(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_name_comes_back(raw in prop::collection::vec(any::<u8>(), 0..40)) {
            let text: String = serde_json::from_str(&name(&raw)).unwrap();
            prop_assert_eq!(unquote(&text).unwrap(), raw);
        }

        #[test]
        fn any_text_comes_back(text in any::<String>()) {
            let json = string(text.as_bytes());
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn any_time_between_the_years_0_and_9999_comes_back(
            seconds in -62_167_219_200_i64..=253_402_300_799,
            nanoseconds in 0_u32..1_000_000_000,
        ) {
            let time = Time { seconds, nanoseconds };
            let mut out = Vec::new();
            write_time(time, &mut out);
            prop_assert_eq!(parse_time(std::str::from_utf8(&out).unwrap()), Some(time));
        }
    }
}
