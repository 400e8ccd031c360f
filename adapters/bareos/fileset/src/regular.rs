//! POSIX extended regular expressions, as Bareos compiles them (`REG_EXTENDED`), in the words of our own matcher.
//!
//! A dot and a negated set match any character, a line break too; `^` and `$` are the ends of the name. Also glibc's
//! additions: `\w \W \s \S \b \B \< \> \` \'`; any other backslash takes the meaning from what follows (so `\d` is a `d`).
//! A byte that is no UTF-8 counts as a character. Classes such as `[:alpha:]`, and `\w` and `\b`, know ASCII only. Not
//! supported, and refused: back-references (`\1`), collating elements of several characters (`[.ch.]`).

use regex_automata::meta::{Config, Regex};
use regex_automata::util::syntax;

/// What a pattern may take when it is compiled, in bytes.
const MOST_MEMORY: usize = 4 << 20;

/// A regular expression, ready to be searched for.
#[derive(Clone, Debug)]
pub struct Regular(Regex);

/// Why a regular expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RegularError(String);

impl Regular {
    /// Compiles a POSIX extended regular expression.
    ///
    /// # Errors
    /// It is none, it needs too much memory, or it uses what is not supported: one sentence.
    pub fn new(pattern: &[u8], ignore_case: bool) -> Result<Self, RegularError> {
        let translated = Translation::of(pattern)?;
        let syntax = syntax::Config::new().utf8(false).dot_matches_new_line(true).case_insensitive(ignore_case);
        let config = Config::new().utf8_empty(false).nfa_size_limit(Some(MOST_MEMORY)).hybrid_cache_capacity(1 << 20);
        let regex = Regex::builder().syntax(syntax.nest_limit(100)).configure(config).build(&translated);
        regex.map(Self).map_err(|error| {
            RegularError(match error.size_limit() {
                Some(_) => "it would take too much memory".to_owned(),
                None => "a repetition or a range in it is no valid one".to_owned(),
            })
        })
    }

    /// Whether it is found anywhere in `name`.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        match std::str::from_utf8(name) {
            Ok(name) => self.0.is_match(name),
            Err(_) => {
                let mut text = String::with_capacity(name.len() * 2);
                let mut rest = name;
                while !rest.is_empty() {
                    let (found, length) = next(rest);
                    text.push(found);
                    rest = &rest[length..];
                }
                self.0.is_match(&text)
            }
        }
    }
}

struct Translation {
    out: String,
    /// Where the last thing that can be repeated begins; and whether it was repeated already.
    atom: Option<(usize, bool)>,
    /// Where each open group begins.
    groups: Vec<usize>,
}

impl Translation {
    fn of(pattern: &[u8]) -> Result<String, RegularError> {
        let refused = |text: &str| Err(RegularError(text.to_owned()));
        let mut this = Self { out: String::new(), atom: None, groups: Vec::new() };
        let mut rest = pattern;
        while let Some(&first) = rest.first() {
            let (found, length) = next(rest);
            match first {
                b'\\' => {
                    let Some((escaped, length)) = rest.get(1..).filter(|rest| !rest.is_empty()).map(next) else {
                        return refused("it ends with a backslash");
                    };
                    rest = &rest[1 + length..];
                    match escaped {
                        '1'..='9' => return refused("back-references (\\1) are not supported"),
                        'w' => this.atom("[0-9A-Za-z_]"),
                        'W' => this.atom("[^0-9A-Za-z_]"),
                        's' => this.atom("[[:space:]]"),
                        'S' => this.atom("[^[:space:]]"),
                        'b' => this.anchor("(?-u:\\b)"),
                        'B' => this.anchor("(?-u:\\B)"),
                        '<' => this.anchor("(?-u:\\b{start})"),
                        '>' => this.anchor("(?-u:\\b{end})"),
                        '`' => this.anchor("\\A"),
                        '\'' => this.anchor("\\z"),
                        other => this.character(other),
                    }
                    continue;
                }
                b'.' => this.atom("."),
                b'^' => this.anchor("\\A"),
                b'$' => this.anchor("\\z"),
                b'|' => {
                    this.out.push('|');
                    this.atom = None;
                }
                b'(' => {
                    this.groups.push(this.out.len());
                    this.out.push_str("(?:");
                    this.atom = None;
                }
                b')' => match this.groups.pop() {
                    Some(start) => {
                        this.out.push(')');
                        this.atom = Some((start, false));
                    }
                    // Without an open group it stands for itself.
                    None => this.character(')'),
                },
                b'*' => this.repeat("*")?,
                b'+' => this.repeat("+")?,
                b'?' => this.repeat("?")?,
                b'{' => {
                    let Some(end) = rest.iter().position(|byte| *byte == b'}') else {
                        return refused("a { is not closed by }; a brace itself is written \\{");
                    };
                    let bounds = bounds(&rest[1..end])?;
                    this.repeat(&bounds)?;
                    rest = &rest[end + 1..];
                    continue;
                }
                b'[' => {
                    let (set, length) = set(&rest[1..])?;
                    this.atom(&set);
                    rest = &rest[1 + length..];
                    continue;
                }
                _ => this.character(found),
            }
            rest = &rest[length..];
        }
        if !this.groups.is_empty() {
            return refused("a ( is not closed by ); a parenthesis itself is written \\(");
        }
        Ok(this.out)
    }

    fn atom(&mut self, text: &str) {
        self.atom = Some((self.out.len(), false));
        self.out.push_str(text);
    }

    fn anchor(&mut self, text: &str) {
        self.atom = None;
        self.out.push_str(text);
    }

    fn character(&mut self, character: char) {
        self.atom = Some((self.out.len(), false));
        push_literal(&mut self.out, character);
    }

    fn repeat(&mut self, how: &str) -> Result<(), RegularError> {
        let Some((start, repeated)) = self.atom else {
            return Err(RegularError(format!(
                "there is nothing before {how} that could be repeated; the character itself is written with a backslash"
            )));
        };
        if repeated {
            // A second repetition would read as one that takes as little as it can.
            self.out.insert_str(start, "(?:");
            self.out.push(')');
        }
        self.out.push_str(how);
        self.atom = Some((start, true));
        Ok(())
    }
}

/// The character at the start of `bytes`, and its length in bytes. A byte that is no UTF-8 becomes one of the last characters
/// for private use. `bytes` is not empty.
fn next(bytes: &[u8]) -> (char, usize) {
    let most = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(most) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&most[..error.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        Some(found) => (found, found.len_utf8()),
        None => (char::from_u32(0x0010_fe00 + u32::from(bytes[0])).unwrap_or(char::REPLACEMENT_CHARACTER), 1),
    }
}

fn push_literal(out: &mut String, character: char) {
    if character.is_ascii_alphanumeric() || !character.is_ascii() {
        out.push(character);
    } else {
        out.push_str(&format!("\\x{{{:x}}}", u32::from(character)));
    }
}

/// `m`, `m,`, `m,n` or `,n` between braces.
fn bounds(text: &[u8]) -> Result<String, RegularError> {
    let bad = || RegularError("what stands between { and } is no number of repetitions".to_owned());
    let text = std::str::from_utf8(text).map_err(|_| bad())?;
    let number = |text: &str| -> Result<u32, RegularError> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|count| digits && *count <= 255).ok_or_else(bad)
    };
    Ok(match text.split_once(',') {
        None => format!("{{{}}}", number(text)?),
        Some((low, "")) => format!("{{{},}}", number(low)?),
        Some(("", high)) => format!("{{0,{}}}", number(high)?),
        Some((low, high)) => {
            let (low, high) = (number(low)?, number(high)?);
            if low > high {
                return Err(bad());
            }
            format!("{{{low},{high}}}")
        }
    })
}

/// The set that begins behind a `[`, and its length up to and with the `]`.
fn set(text: &[u8]) -> Result<(String, usize), RegularError> {
    let refused = |text: &str| RegularError(text.to_owned());
    let open = || refused("a [ is not closed by ]; a bracket itself is written \\[");
    let mut at = 0;
    let negated = text.first() == Some(&b'^');
    if negated {
        at += 1;
    }
    let start = at;
    let mut out = String::new();
    loop {
        let rest = text.get(at..).unwrap_or_default();
        match rest {
            [] => return Err(open()),
            [b']', ..] if at > start => {
                return Ok((if negated { format!("[^{out}]") } else { format!("[{out}]") }, at + 1));
            }
            [b'[', b':', inside @ ..] => {
                let end = inside.windows(2).position(|two| two == b":]").ok_or_else(open)?;
                let name = std::str::from_utf8(&inside[..end]).unwrap_or_default();
                if !matches!(
                    name,
                    "alnum"
                        | "alpha"
                        | "blank"
                        | "cntrl"
                        | "digit"
                        | "graph"
                        | "lower"
                        | "print"
                        | "punct"
                        | "space"
                        | "upper"
                        | "xdigit"
                ) {
                    return Err(refused("there is no class of characters with the name between [: and :]"));
                }
                out.push_str(&format!("[:{name}:]"));
                at += end + 4;
                continue;
            }
            _ => {}
        }
        let (low, length) = member(rest)?;
        at += length;
        push_literal(&mut out, low);
        match text.get(at..) {
            Some([b'-', next, ..]) if *next != b']' => {
                let (high, length) = member(&text[at + 1..])?;
                if high < low {
                    return Err(refused("a range between [ and ] ends before it begins"));
                }
                out.push('-');
                push_literal(&mut out, high);
                at += 1 + length;
            }
            _ => {}
        }
    }
}

/// One character of a set: itself, `[.x.]` or `[=x=]`; and the bytes it takes.
fn member(text: &[u8]) -> Result<(char, usize), RegularError> {
    if let [b'[', mark @ (b'.' | b'='), inside @ ..] = text
        && !inside.is_empty()
    {
        let (found, length) = next(inside);
        return match inside.get(length..length + 2) {
            Some([end, b']']) if end == mark => Ok((found, length + 4)),
            _ => Err(RegularError("collating elements of several characters are not supported".to_owned())),
        };
    }
    Ok(next(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let regular = Regular::new(pattern.as_bytes(), false).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        for name in yes {
            assert!(regular.matches(name.as_bytes()), "{pattern} {name}");
        }
        for name in no {
            assert!(!regular.matches(name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn expressions_mean_what_posix_says() {
        check("b", &["abc"], &["ac"]);
        check("^/home/[^/]+/tmp$", &["/home/a/tmp", "/home/ä/tmp"], &["/home/a/b/tmp", "/home/a/tmp/x"]);
        check(r".*\.(o|tmp)$", &["/a.o", "/x.tmp"], &["/a.oo", "/ao"]);
        check("^a{2,3}$", &["aa", "aaa"], &["a", "aaaa"]);
        check("^a{,2}$", &["", "aa"], &["aaa"]);
        check("^(ab){2}$", &["abab"], &["ab"]);
        check("a|b|", &["", "x"], &[]);
        check("^.$", &["a", "ä", "\n"], &["ab"]);
        check("$", &["", "a\n"], &[]);
        check("a)", &["a)"], &["a"]);
        check("^[]a-]+$", &["]", "a-]"], &["b"]);
        check("^[^]a]$", &["b"], &["]", "a"]);
        check(r"^[\.]$", &["\\", "."], &["x"]);
        check("^[[:digit:]_]+$", &["1_2"], &["a"]);
        check("^[[.-.][=x=]]$", &["-", "x"], &["."]);
        check("[[]", &["["], &["]"]);
        check("^[&~|#]$", &["&", "~", "#"], &["x"]);
        check("^[a&&b]$", &["a", "&", "b"], &["c"]);
    }

    #[test]
    fn a_backslash_takes_the_meaning_away_or_is_one_of_glibcs_additions() {
        check(r"^\d$", &["d"], &["1"]);
        check(r"^\w\W\s\S$", &["a. x"], &["a.xx"]);
        check(r"\<ab\>", &["x ab y"], &["xab"]);
        check(r"\ba\B", &["x ab"], &["xab"]);
        check(r"\`a\'", &["a"], &["ab"]);
        check(r"^\(\)\{\}\[\]\*\+\?\|\^\$\.\\\/$", &[r"(){}[]*+?|^$.\/"], &[]);
        check("^a #b$", &["a #b"], &["ab"]);
    }

    #[test]
    fn a_repetition_of_a_repetition_repeats() {
        // As another syntax has it, the second sign would make the first take as little as it can.
        check("^a+?$", &["", "a", "aaa"], &["b"]);
        check("^a*+$", &["", "aaa"], &["b"]);
        check("^(ab)??$", &["", "ab"], &["a"]);
        check("^xa{2}{2}$", &["xaaaa"], &["xaa"]);
    }

    #[test]
    fn bytes_that_are_no_text_count_as_characters() {
        let dots = Regular::new(b"^/a.c[^x]$", false).unwrap();
        assert!(dots.matches(b"/a\xffc\xfe") && !dots.matches(b"/ac\xfe"));
        let exact = Regular::new(b"^\xff+$", false).unwrap();
        assert!(exact.matches(b"\xff\xff") && !exact.matches(b"\xfe"));
        let set = Regular::new(b"^[\xf0-\xff]$", false).unwrap();
        assert!(set.matches(b"\xf1") && !set.matches(b"\x80"));
        // A character of two bytes is one.
        assert!(!Regular::new(b"..", false).unwrap().matches("ä".as_bytes()));
    }

    #[test]
    fn case_is_ignored_where_it_was_asked_for() {
        let regular = Regular::new("^[a-c]Ä$".as_bytes(), true).unwrap();
        assert!(regular.matches("Bä".as_bytes()));
        assert!(!Regular::new(b"^a$", false).unwrap().matches(b"A"));
    }

    #[test]
    fn what_is_no_expression_is_refused_with_a_reason() {
        for (pattern, reason) in [
            ("*a", "nothing before *"),
            ("(?i)a", "nothing before ?"),
            ("a|+", "nothing before +"),
            ("^*", "nothing before *"),
            ("\\b+", "nothing before +"),
            ("(a", "not closed by )"),
            ("[a", "not closed by ]"),
            ("[]", "not closed by ]"),
            ("a{", "not closed by }"),
            ("a{x}", "no number of repetitions"),
            ("a{3,2}", "no number of repetitions"),
            ("a{999}", "no number of repetitions"),
            ("a\\", "ends with a backslash"),
            ("(a)\\1", "back-references"),
            ("[[:word:]]", "no class of characters"),
            ("[[.ch.]]", "collating elements"),
            ("[z-a]", "ends before it begins"),
            ("((((a{255}){255}){255}){255})", "too much memory"),
        ] {
            let error = Regular::new(pattern.as_bytes(), false).unwrap_err().to_string();
            assert!(error.contains(reason), "{pattern}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_compile_or_are_refused(pattern in proptest::collection::vec(any::<u8>(), 0..20), name: Vec<u8>) {
            if let Ok(regular) = Regular::new(&pattern, true) {
                let _ = regular.matches(&name);
            }
        }

        #[test]
        fn what_was_translated_is_always_understood(pattern in "[ab.*+?|()\\[\\]^$\\\\{}0-9,:-]{0,12}") {
            if let Ok(translated) = Translation::of(pattern.as_bytes())
                && let Err(error) = Regular::new(pattern.as_bytes(), false)
            {
                prop_assert!(error.to_string().contains("memory"), "{} became {}: {}", pattern, translated, error);
            }
        }

        #[test]
        fn an_escaped_text_is_found_where_it_stands(text in "[a-z.*?{}()|^$/ -]{1,8}", before in "[A-Z]{0,3}") {
            let escaped: String =
                text.chars().flat_map(|c| if c.is_ascii_alphabetic() { vec![c] } else { vec!['\\', c] }).collect();
            let regular = Regular::new(escaped.as_bytes(), false).unwrap();
            let whole = format!("{before}{text}");
            prop_assert!(regular.matches(whole.as_bytes()));
            prop_assert!(!regular.matches(before.as_bytes()));
        }
    }
}
