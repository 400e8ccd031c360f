//! Numbers in nbdkit's spelling: sizes, probabilities, delays, integers, booleans (reference 2.1, 4.2, 4.3). No I/O.

/// White space as C's `isspace` has it.
fn skip_space(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r'])
}

/// A size in bytes, 0 to 2⁶³-1: digits and at most one suffix letter (`b` 1, `k` 2¹⁰, `m` 2²⁰ ... `e` 2⁶⁰, `s` 512).
///
/// # Errors
/// One sentence that names the text.
pub fn parse_size(text: &str) -> Result<i64, String> {
    let unreadable = || format!("could not parse size string ({text})");
    let rest = skip_space(text);
    let (negative, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest.strip_prefix('+').unwrap_or(rest)),
    };
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, suffix) = rest.split_at(end);
    if digits.is_empty() {
        return Err(unreadable());
    }
    let too_large = || format!("could not parse size: size * scale overflows or is over 2^63-1 ({text})");
    let number: i64 = digits.parse().map_err(|_| too_large())?;
    if negative && number != 0 {
        return Err(format!("could not parse size: size cannot be negative ({text})"));
    }
    let scale = size_scale(suffix).ok_or_else(unreadable)?;
    number.checked_mul(scale).ok_or_else(too_large)
}

fn size_scale(suffix: &str) -> Option<i64> {
    Some(match suffix {
        "" | "b" | "B" => 1,
        "s" | "S" => 512,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        "p" | "P" => 1 << 50,
        "e" | "E" => 1 << 60,
        _ => return None,
    })
}

/// The decimal number that `text` begins with, and what follows it.
fn leading_float(text: &str) -> Option<(f64, &str)> {
    let text = skip_space(text);
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let whole = digits(end);
    end += whole;
    let mut fraction = 0;
    if bytes.get(end) == Some(&b'.') {
        fraction = digits(end + 1);
        end += 1 + fraction;
    }
    if whole + fraction == 0 {
        return None;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    let (number, rest) = text.split_at(end);
    number.parse().ok().map(|number| (number, rest))
}

/// A probability: `0.1`, `1e-1`, `10%`, `1:10`, `1/10`; `0:0` is 0; it may be above 1.
///
/// # Errors
/// One sentence that names `what` and the text.
pub fn parse_probability(what: &str, text: &str) -> Result<f64, String> {
    let unreadable = || format!("{what}: could not parse '{text}' as a probability");
    let (first, rest) = leading_float(text).ok_or_else(unreadable)?;
    let value = if let Some(rest) = rest.strip_prefix([':', '/']) {
        match leading_float(rest).ok_or_else(unreadable)? {
            (second, "") if first == 0.0 && second == 0.0 => 0.0,
            (0.0, "") => return Err(format!("{what}: the denominator of '{text}' is 0")),
            (second, "") => first / second,
            _ => return Err(unreadable()),
        }
    } else {
        match rest {
            "" => first,
            "%" => first / 100.0,
            _ => return Err(unreadable()),
        }
    };
    if value.is_finite() && value >= 0.0 {
        Ok(value)
    } else {
        Err(format!("{what}: the probability '{text}' is out of range"))
    }
}

/// A delay as seconds and nanoseconds: a number and none of a suffix, `s`, `ms`, `us`, `μs` or `ns`.
///
/// # Errors
/// One sentence that names `what` and the text.
pub fn parse_delay(what: &str, text: &str) -> Result<(u32, u32), String> {
    let unreadable = || format!("{what}: could not parse '{text}' as a delay (a number and s, ms, us or ns)");
    let (number, rest) = leading_float(text).ok_or_else(unreadable)?;
    let per_unit = match skip_space(rest) {
        "" | "s" => 1e9,
        "ms" => 1e6,
        // Both letters: the micro sign and the Greek mu.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1e3,
        "ns" => 1.0,
        _ => return Err(unreadable()),
    };
    let nanoseconds = (number * per_unit).round();
    let out_of_range = || format!("{what}: the delay '{text}' is out of range");
    if !(0.0..=4_294_967_295.0 * 1e9).contains(&nanoseconds) {
        return Err(out_of_range());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // just checked
    let nanoseconds = nanoseconds as u64;
    let seconds = u32::try_from(nanoseconds / 1_000_000_000).map_err(|_| out_of_range())?;
    let rest = u32::try_from(nanoseconds % 1_000_000_000).map_err(|_| out_of_range())?;
    Ok((seconds, rest))
}

/// An unsigned number as C's `strtoul` with base 0 reads it: decimal, `0x` hexadecimal, `0` octal.
///
/// # Errors
/// One sentence that names `what` and the text.
pub fn parse_unsigned(what: &str, text: &str) -> Result<u32, String> {
    let unreadable = || format!("{what}: could not parse number: \"{text}\"");
    let rest = skip_space(text);
    let rest = rest.strip_prefix('+').unwrap_or(rest);
    let (digits, radix) = match rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if rest.len() > 1 && rest.starts_with('0') => (&rest[1..], 8),
        None => (rest, 10),
    };
    if digits.is_empty() || !digits.chars().all(|letter| letter.is_digit(radix)) {
        return Err(unreadable());
    }
    u32::from_str_radix(digits, radix).map_err(|_| format!("{what}: number out of range: \"{text}\""))
}

/// A boolean word in any case: `1 true t yes y on`, `0 false f no n off`.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Some(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_table_says() {
        for (text, size) in [
            ("511", 511),
            ("7k", 7168),
            ("17M", 17_825_792),
            ("1b", 1),
            ("1s", 512),
            ("7E", 7 << 60),
            (" 5", 5),
            ("+5", 5),
            ("-0", 0),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "-1", "1.5M", "0x10", "10kk", "1kB", "1MiB", "5 ", "k", "8E", "9223372036854775808", "foo"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn probabilities_in_every_form() {
        for (text, value) in
            [("0.1", 0.1), ("1e-1", 0.1), ("10%", 0.1), ("1:10", 0.1), ("1/10", 0.1), ("0:0", 0.0), ("3", 3.0)]
        {
            let read = parse_probability("p", text).unwrap();
            assert!((read - value).abs() < 1e-12, "{text}: {read}");
        }
        for text in ["", "-1", "-1%", "inf", "nan", "1:0", "1/0", "abc", "1:", "1:2:3", "10%%", "1e999"] {
            assert!(parse_probability("p", text).is_err(), "{text}");
        }
    }

    #[test]
    fn delays_in_every_unit() {
        for (text, delay) in [
            ("1", (1, 0)),
            ("2s", (2, 0)),
            ("1500ms", (1, 500_000_000)),
            ("1.2 μs", (0, 1200)),
            ("7us", (0, 7000)),
            ("9ns", (0, 9)),
            ("0", (0, 0)),
        ] {
            assert_eq!(parse_delay("d", text), Ok(delay), "{text}");
        }
        for text in ["", "s", "-1", "1h", "1 m", "5000000000", "nan"] {
            assert!(parse_delay("d", text).is_err(), "{text}");
        }
    }

    #[test]
    fn unsigned_numbers_in_three_bases() {
        assert_eq!(parse_unsigned("n", "10"), Ok(10));
        assert_eq!(parse_unsigned("n", "0x1F"), Ok(31));
        assert_eq!(parse_unsigned("n", "010"), Ok(8));
        assert_eq!(parse_unsigned("n", "0"), Ok(0));
        for text in ["", "-1", "09", "0x", "1k", "4294967296"] {
            assert!(parse_unsigned("n", text).is_err(), "{text}");
        }
    }
}
