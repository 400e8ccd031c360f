//! Files of pre-shared keys, as GnuTLS' `psktool` writes them: lines `username:hexkey`.

use std::collections::HashMap;
use std::path::Path;

use super::CredentialsError;

/// Bytes that the library takes.
const LONGEST_KEY: usize = 256;
/// Bytes that the library takes.
const LONGEST_NAME: usize = 128;

/// Keys by user.
pub(crate) struct Keys(HashMap<Vec<u8>, Vec<u8>>);

impl Keys {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, a line is no key, or there is none.
    pub(crate) fn load(path: &Path) -> Result<Self, CredentialsError> {
        let content = std::fs::read(path).map_err(|error| CredentialsError::File { path: path.to_owned(), error })?;
        Self::parse(&content).map_err(|reason| CredentialsError::content(path, reason))
    }

    fn parse(content: &[u8]) -> Result<Self, String> {
        let mut keys = HashMap::new();
        for (number, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            match parse_line(line) {
                // The first one counts.
                Some((name, key)) => drop(keys.entry(name).or_insert(key)),
                None if line.is_empty() || line.starts_with(b"#") => {}
                None => {
                    let form = "not of the form username:hexkey, with a key of 1 to 256 bytes";
                    return Err(format!("line {}: {form}", number + 1));
                }
            }
        }
        if keys.is_empty() { Err("there is no key in it".to_owned()) } else { Ok(Self(keys)) }
    }

    /// The only one.
    pub(crate) fn only(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut keys = self.0.iter();
        let (name, key) = keys.next()?;
        keys.next().is_none().then(|| (name.clone(), key.clone()))
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

fn parse_line(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let colon = line.iter().rposition(|byte| *byte == b':')?;
    let name = match line[..colon].strip_prefix(b"#") {
        // A name that cannot be written otherwise.
        Some(hex) => from_hex(hex)?,
        None => line[..colon].to_vec(),
    };
    let key = from_hex(&line[colon + 1..])?;
    let fits = (1..=LONGEST_NAME).contains(&name.len()) && (1..=LONGEST_KEY).contains(&key.len());
    fits.then_some((name, key))
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_name() {
        let keys = Keys::parse(b"# who may\n#6361726f6c:01\nalice:00ff10\n\nbob:AB\r\nalice:22\n")
            .unwrap_or_else(|reason| panic!("{reason}"));
        assert_eq!(keys.find(b"alice"), Some(&[0, 0xff, 0x10][..]));
        assert_eq!(keys.find(b"bob"), Some(&[0xab][..]));
        assert_eq!(keys.find(b"carol"), Some(&[1][..]));
        assert_eq!(keys.find(b"eve"), None);
    }

    #[test]
    fn lines_that_are_no_keys_are_refused_by_number() {
        for line in ["alice", "alice:", "alice:0", "alice:zz", ":00", &format!("a:{}", "00".repeat(257))] {
            let text = format!("bob:00\n{line}\n");
            assert!(Keys::parse(text.as_bytes()).err().is_some_and(|reason| reason.contains("line 2")), "{line}");
        }
        assert!(Keys::parse(b"\n").is_err());
    }
}
