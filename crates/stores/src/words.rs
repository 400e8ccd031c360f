//! Command lines in options: `--password-command`, `-o sftp.command=...`.

/// Splits a command line into words: quotes of both kinds, a backslash before one character; nothing else is special.
///
/// # Errors
/// What is not closed.
pub fn split(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some('"') | None, '\\') => {
                let next = characters.next().ok_or("the command ends with a backslash")?;
                word.get_or_insert_default().push(next);
            }
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_splits_into_words() {
        assert_eq!(split("pass show  'my backup'").unwrap(), ["pass", "show", "my backup"]);
        assert_eq!(split(r#"a "b \" c" d\ e '' "#).unwrap(), ["a", "b \" c", "d e", ""]);
        assert_eq!(split(r"'a\b'").unwrap(), [r"a\b"]);
        assert!(split("a 'b").is_err());
        assert!(split("a\\").is_err());
    }
}
