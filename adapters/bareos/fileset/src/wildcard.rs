//! Wildcards as Bareos' `fnmatch` takes them (reference 6.5): `*` and `?` also match a slash unless enhanced wildcards are
//! on, a leading dot is nothing special, a backslash takes the meaning from what follows it.
//!
//! A character is one of UTF-8, or one byte of what is no UTF-8. `[:alpha:]` and its like know ASCII only; a bracket that is
//! not closed stands for itself.

/// How a wildcard is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WildcardOptions {
    /// `Enhanced Wild`: `*`, `?` and brackets match no slash (`FNM_PATHNAME`).
    pub keep_slashes: bool,
    /// `Ignore Case`.
    pub ignore_case: bool,
}

/// A wildcard, ready to be compared.
#[derive(Clone, Debug)]
pub struct Wildcard {
    tokens: Vec<Token>,
    options: WildcardOptions,
}

#[derive(Clone, Debug)]
enum Token {
    /// This character.
    One(u32),
    /// `?`.
    Any,
    /// `*`.
    Many,
    /// `[...]`.
    Set { negated: bool, members: Vec<Member> },
}

#[derive(Clone, Copy, Debug)]
enum Member {
    Range(u32, u32),
    Class(fn(&u8) -> bool),
}

/// Bytes that are no UTF-8 are numbers past every character.
const NO_TEXT: u32 = 0x0011_0000;

/// The character at the start of `bytes`, and its length in bytes. `bytes` is not empty.
fn character(bytes: &[u8]) -> (u32, usize) {
    let first = bytes[0];
    if first < 0x80 {
        return (first.into(), 1);
    }
    let length = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return (NO_TEXT + u32::from(first), 1),
    };
    let text = bytes.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
    match text.and_then(|text| text.chars().next()) {
        Some(found) => (found.into(), length),
        None => (NO_TEXT + u32::from(first), 1),
    }
}

fn lower(character: u32) -> u32 {
    match char::from_u32(character) {
        Some(c) if c.is_ascii() => c.to_ascii_lowercase().into(),
        Some(c) => {
            let mut folded = c.to_lowercase();
            match (folded.next(), folded.next()) {
                (Some(one), None) => one.into(),
                _ => character,
            }
        }
        None => character,
    }
}

fn class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| (0x20..0x7f).contains(byte),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

impl Wildcard {
    /// Every text is a wildcard.
    #[must_use]
    pub fn new(pattern: &[u8], options: WildcardOptions) -> Self {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some(&first) = rest.first() {
            match first {
                b'*' => {
                    if !matches!(tokens.last(), Some(Token::Many)) {
                        tokens.push(Token::Many);
                    }
                    rest = &rest[1..];
                }
                b'?' => {
                    tokens.push(Token::Any);
                    rest = &rest[1..];
                }
                b'[' => match set(&rest[1..]) {
                    Some((token, length)) => {
                        tokens.push(token);
                        rest = &rest[1 + length..];
                    }
                    None => {
                        tokens.push(Token::One(b'['.into()));
                        rest = &rest[1..];
                    }
                },
                _ => {
                    // A backslash at the end stands for itself.
                    if first == b'\\' && rest.len() > 1 {
                        rest = &rest[1..];
                    }
                    let (one, length) = character(rest);
                    tokens.push(Token::One(one));
                    rest = &rest[length..];
                }
            }
        }
        Self { tokens, options }
    }

    /// Whether the whole of `name` matches.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut token, mut at) = (0, 0);
        // Where to go on after the last `*`: the token behind it, and how much of the name it has taken.
        let mut again: Option<(usize, usize)> = None;
        loop {
            match self.tokens.get(token) {
                Some(Token::Many) => {
                    token += 1;
                    if token == self.tokens.len() && !self.options.keep_slashes {
                        return true;
                    }
                    again = Some((token, at));
                    continue;
                }
                Some(wanted) if at < name.len() => {
                    let (found, length) = character(&name[at..]);
                    if self.fits(wanted, found) {
                        token += 1;
                        at += length;
                        continue;
                    }
                }
                None if at == name.len() => return true,
                _ => {}
            }
            // The `*` takes one character more; with a slash in its way no earlier one helps either, since each component
            // of the name then belongs to one component of the pattern.
            let Some((after, taken)) = again else { return false };
            if taken >= name.len() {
                return false;
            }
            let (next, length) = character(&name[taken..]);
            if self.options.keep_slashes && next == u32::from(b'/') {
                return false;
            }
            again = Some((after, taken + length));
            (token, at) = (after, taken + length);
        }
    }

    fn fits(&self, wanted: &Token, found: u32) -> bool {
        let slash = found == u32::from(b'/');
        match wanted {
            Token::One(one) => *one == found || (self.options.ignore_case && lower(*one) == lower(found)),
            Token::Any => !(slash && self.options.keep_slashes),
            Token::Many => false,
            Token::Set { negated, members } => {
                if slash && self.options.keep_slashes {
                    return false;
                }
                let inside = members.iter().any(|member| self.member(*member, found));
                inside != *negated
            }
        }
    }

    fn member(&self, member: Member, found: u32) -> bool {
        match member {
            Member::Range(low, high) => {
                (low..=high).contains(&found)
                    || (self.options.ignore_case && (lower(low)..=lower(high)).contains(&lower(found)))
            }
            Member::Class(class) => u8::try_from(found).is_ok_and(|byte| {
                byte.is_ascii()
                    && (class(&byte)
                        || self.options.ignore_case
                            && (class(&byte.to_ascii_lowercase()) || class(&byte.to_ascii_uppercase())))
            }),
        }
    }
}

/// The set that begins behind a `[`, and its length up to and with the `]`. None: it is not closed.
fn set(text: &[u8]) -> Option<(Token, usize)> {
    let mut at = 0;
    let negated = matches!(text.first(), Some(b'!' | b'^'));
    if negated {
        at += 1;
    }
    let start = at;
    let mut members = Vec::new();
    loop {
        let rest = text.get(at..)?;
        match rest.first()? {
            b']' if at > start => return Some((Token::Set { negated, members }, at + 1)),
            b'[' if rest.get(1) == Some(&b':') => {
                let end = rest.windows(2).skip(2).position(|two| two == b":]").map(|end| end + 2);
                if let Some(found) = end.and_then(|end| class(&rest[2..end])) {
                    members.push(Member::Class(found));
                    at += end.unwrap_or(0) + 2;
                    continue;
                }
            }
            _ => {}
        }
        let (low, length) = escaped(rest)?;
        at += length;
        match text.get(at..) {
            Some([b'-', next, ..]) if *next != b']' => {
                let (high, length) = escaped(&text[at + 1..])?;
                members.push(Member::Range(low, high));
                at += 1 + length;
            }
            _ => members.push(Member::Range(low, low)),
        }
    }
}

/// A character of a set, perhaps behind a backslash, and the bytes it takes.
fn escaped(text: &[u8]) -> Option<(u32, usize)> {
    match text {
        [b'\\', rest @ ..] if !rest.is_empty() => {
            let (found, length) = character(rest);
            Some((found, length + 1))
        }
        [] => None,
        _ => Some(character(text)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(options: WildcardOptions, pattern: &str, yes: &[&[u8]], no: &[&[u8]]) {
        let wildcard = Wildcard::new(pattern.as_bytes(), options);
        for name in yes {
            assert!(wildcard.matches(name), "{pattern} {}", String::from_utf8_lossy(name));
        }
        for name in no {
            assert!(!wildcard.matches(name), "{pattern} {}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn stars_cross_slashes_and_dots_are_nothing_special() {
        let plain = WildcardOptions::default();
        check(plain, "*.o", &[b"/a/b.o", b".o", b"x.o"], &[b"/a/b.oo", b"", b"o"]);
        check(
            plain,
            "/home/*/tmp",
            &[b"/home/a/tmp", b"/home/a/b/tmp", b"/home//tmp"],
            &[b"/home/tmp", b"/home/a/tmp/x"],
        );
        check(plain, "a?c", &[b"abc", b"a/c", "aäc".as_bytes(), b"a\xffc"], &[b"ac", b"abbc"]);
        check(plain, "*", &[b"", b"/", b"/.hidden"], &[]);
        check(plain, "*a*b*c", &[b"abc", b"xaxbxabxc"], &[b"acb", b"ab"]);
        check(plain, "", &[b""], &[b"x"]);
    }

    #[test]
    fn enhanced_wildcards_stay_between_slashes() {
        let kept = WildcardOptions { keep_slashes: true, ignore_case: false };
        check(kept, "/home/*/tmp", &[b"/home/a/tmp", b"/home//tmp"], &[b"/home/a/b/tmp"]);
        check(kept, "*", &[b"", b"abc"], &[b"/", b"a/b"]);
        check(kept, "a?c", &[b"abc"], &[b"a/c"]);
        check(kept, "a[!x]c", &[b"abc"], &[b"a/c", b"axc"]);
        check(kept, "*/*b", &[b"x/ab", b"/b"], &[b"x/y/b", b"b"]);
    }

    #[test]
    fn sets_ranges_and_escapes() {
        let plain = WildcardOptions::default();
        check(plain, "[a-c]x", &[b"ax", b"cx"], &[b"dx", b"x", b"-x"]);
        check(plain, "[!a-c]", &[b"d", "ä".as_bytes(), b"\xff"], &[b"a", b""]);
        check(plain, "[^a]", &[b"d"], &[b"a"]);
        check(plain, "[]a]", &[b"]", b"a"], &[b"b"]);
        check(plain, "[a-]", &[b"-", b"a"], &[b"b"]);
        check(plain, "[\\]\\\\]", &[b"]", b"\\"], &[b"x"]);
        check(plain, "[ä-ü]", &["ö".as_bytes()], &[b"o"]);
        check(plain, "[[:digit:]x]", &[b"4", b"x"], &[b"y", b":"]);
        check(plain, "[[:nothing:]", &[b":", b"n"], &[b"x"]);
        check(plain, "\\*\\?\\[", &[b"*?["], &[b"xyz"]);
        check(plain, "a\\", &[b"a\\"], &[b"a"]);
        check(plain, "[abc", &[b"[abc"], &[b"a"]);
        check(plain, "[", &[b"["], &[b""]);
        check(plain, "[a\\", &[b"[a\\"], &[b"a"]);
    }

    #[test]
    fn case_is_ignored_where_it_was_asked_for() {
        let folded = WildcardOptions { keep_slashes: false, ignore_case: true };
        check(folded, "*.Jpg", &[b"x.JPG", b"x.jpg"], &[b"x.jpeg"]);
        check(folded, "[a-c]Ä", &["Bä".as_bytes()], &[b"D\xe4"]);
        check(folded, "[[:upper:]]", &[b"a", b"A"], &[b"1"]);
        check(WildcardOptions::default(), "a", &[b"a"], &[b"A"]);
    }

    /// The definition, word by word.
    fn slow(tokens: &[Token], wildcard: &Wildcard, name: &[u8]) -> bool {
        match tokens.split_first() {
            None => name.is_empty(),
            Some((Token::Many, rest)) => {
                let mut at = 0;
                loop {
                    if slow(rest, wildcard, &name[at..]) {
                        return true;
                    }
                    if at == name.len() || (wildcard.options.keep_slashes && name[at] == b'/') {
                        return false;
                    }
                    at += character(&name[at..]).1;
                }
            }
            Some((token, rest)) => {
                if name.is_empty() {
                    return false;
                }
                let (found, length) = character(name);
                wildcard.fits(token, found) && slow(rest, wildcard, &name[length..])
            }
        }
    }

    proptest! {
        #[test]
        fn going_back_only_to_the_last_star_finds_every_match(
            pattern in "[ab/?*\\[\\]!\\\\-]{0,10}", name in "[ab/]{0,12}", keep_slashes: bool, ignore_case: bool,
        ) {
            let wildcard = Wildcard::new(pattern.as_bytes(), WildcardOptions { keep_slashes, ignore_case });
            prop_assert_eq!(wildcard.matches(name.as_bytes()), slow(&wildcard.tokens, &wildcard, name.as_bytes()));
        }

        #[test]
        fn any_bytes_are_a_wildcard_and_a_name(pattern: Vec<u8>, name: Vec<u8>) {
            for keep_slashes in [false, true] {
                let wildcard = Wildcard::new(&pattern, WildcardOptions { keep_slashes, ignore_case: true });
                prop_assert_eq!(wildcard.matches(&name), slow(&wildcard.tokens, &wildcard, &name));
            }
        }

        #[test]
        fn an_escaped_text_matches_itself_alone(text in "[a-z*?\\[\\]\\\\/]{1,8}", other in "[a-z*?\\[\\]\\\\/]{1,8}") {
            let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
            let wildcard = Wildcard::new(escaped.as_bytes(), WildcardOptions::default());
            prop_assert!(wildcard.matches(text.as_bytes()));
            prop_assert_eq!(wildcard.matches(other.as_bytes()), text == other);
        }
    }
}
