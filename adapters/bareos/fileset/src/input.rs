//! The text of a configuration, taken apart: words, values, comments, and other texts that it includes with `@`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::keywords::plain;
use crate::parser::{ParseError, Surroundings};

/// Texts inside each other.
const MOST_DEEP: usize = 16;
/// Texts that may be included altogether.
const MOST_INCLUDED: usize = 1000;
/// Bytes of one text.
const MOST_BYTES: usize = 64 << 20;

struct Text {
    name: Arc<str>,
    /// Where relative names in it start.
    folder: PathBuf,
    bytes: Vec<u8>,
    at: usize,
    line: usize,
}

/// What a statement begins with.
pub(crate) enum Start {
    /// A word, as it is compared and as it was written.
    Word(String, String),
    /// `}`.
    Close,
    /// There is no more text.
    End,
}

/// What follows a word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    Equals,
    Brace,
}

/// A value, and where it stood.
#[derive(Clone)]
pub(crate) struct Value {
    pub(crate) bytes: Vec<u8>,
    pub(crate) place: Place,
}

/// A file and a line, from 1.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) file: Arc<str>,
    pub(crate) line: usize,
}

impl Place {
    pub(crate) fn error(&self, what: impl Into<String>) -> ParseError {
        ParseError { file: self.file.to_string(), line: self.line, what: what.into() }
    }
}

pub(crate) struct Input<'a> {
    pub(crate) surroundings: &'a mut dyn Surroundings,
    texts: Vec<Text>,
    included: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(file: &Path, surroundings: &'a mut dyn Surroundings) -> Result<Self, ParseError> {
        let name = file.display().to_string();
        let unreadable =
            |error: &io::Error| ParseError { file: name.clone(), line: 0, what: format!("it cannot be read: {error}") };
        let bytes = surroundings.read(file).map_err(|error| unreadable(&error))?;
        let mut input = Self { surroundings, texts: Vec::new(), included: 0 };
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        input.push(name.as_str().into(), folder, bytes);
        Ok(input)
    }

    fn push(&mut self, name: Arc<str>, folder: PathBuf, bytes: Vec<u8>) {
        let at = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        self.texts.push(Text { name, folder, bytes, at, line: 1 });
    }

    /// Where the text stands now.
    pub(crate) fn place(&self) -> Place {
        self.texts.last().map_or_else(
            || Place { file: "".into(), line: 0 },
            |text| Place { file: Arc::clone(&text.name), line: text.line },
        )
    }

    /// The folder that relative names of files start from.
    pub(crate) fn folder(&self) -> PathBuf {
        self.texts.last().map(|text| text.folder.clone()).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        let text = self.texts.last()?;
        text.bytes.get(text.at).copied()
    }

    fn bump(&mut self) -> Option<u8> {
        let text = self.texts.last_mut()?;
        let byte = *text.bytes.get(text.at)?;
        text.at += 1;
        if byte == b'\n' {
            text.line += 1;
        }
        Some(byte)
    }

    /// Passes blanks and comments, and with `lines` ends of lines.
    fn skip(&mut self, lines: bool) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\x0b' | b'\x0c' => {}
                b'\n' if lines => {}
                b'#' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.bump();
                    }
                    continue;
                }
                _ => return,
            }
            self.bump();
        }
    }

    /// The beginning of the next statement.
    pub(crate) fn statement(&mut self) -> Result<Start, ParseError> {
        loop {
            self.skip(true);
            match self.peek() {
                Some(b';') => {
                    self.bump();
                }
                Some(b'}') => {
                    self.bump();
                    return Ok(Start::Close);
                }
                Some(b'@') => self.include()?,
                Some(_) => return self.word(),
                None if self.texts.len() > 1 => {
                    self.texts.pop();
                }
                None => return Ok(Start::End),
            }
        }
    }

    fn word(&mut self) -> Result<Start, ParseError> {
        let mut word = Vec::new();
        while let Some(byte) = self.peek()
            && !matches!(byte, b'=' | b'{' | b'}' | b';' | b'"' | b'#' | b',' | b'\n')
        {
            word.push(byte);
            self.bump();
        }
        let written = String::from_utf8_lossy(&word).trim().to_owned();
        if written.is_empty() {
            let found = self.peek().map_or(' ', char::from);
            return Err(self.place().error(format!("a keyword was expected, and there is {found}")));
        }
        Ok(Start::Word(plain(&word), written))
    }

    /// What follows a word: `=`, or `{`, which may stand on a line of its own.
    pub(crate) fn follows(&mut self, word: &str) -> Result<Follows, ParseError> {
        let place = self.place();
        self.skip(false);
        if self.peek() == Some(b'\n') {
            self.skip(true);
        }
        match self.peek() {
            Some(b'=') => {
                self.bump();
                Ok(Follows::Equals)
            }
            Some(b'{') => {
                self.bump();
                Ok(Follows::Brace)
            }
            _ => Err(place.error(format!("\"{word}\" is followed by neither = nor {{"))),
        }
    }

    /// The value behind a `=`, up to the end of its line, a `;` or a `}`.
    pub(crate) fn value(&mut self, word: &str) -> Result<Value, ParseError> {
        self.skip(false);
        let mut place = self.place();
        if self.peek() == Some(b'\n') {
            self.skip(true);
            if self.peek() != Some(b'"') {
                return Err(place.error(format!("\"{word} =\" has no value")));
            }
            place = self.place();
        }
        let mut bytes = Vec::new();
        if self.peek() == Some(b'"') {
            self.quoted(&mut bytes)?;
            // Quoted texts that follow each other are one, also across lines.
            while let Some(before) = self.texts.last().map(|text| (text.at, text.line)) {
                self.skip(true);
                if self.peek() == Some(b'"') {
                    self.quoted(&mut bytes)?;
                    continue;
                }
                if let Some(text) = self.texts.last_mut() {
                    (text.at, text.line) = before;
                }
                break;
            }
        } else {
            if self.peek() == Some(b'@') {
                return Err(place.error(format!("put the value of {word} in quotes: @ includes a file")));
            }
            while let Some(byte) = self.peek()
                && !matches!(byte, b';' | b',' | b'{' | b'}' | b'#' | b'=' | b'"')
                && !byte.is_ascii_whitespace()
            {
                if byte == b'\\' {
                    return Err(place.error(format!("put the value of {word} in quotes: it has a backslash")));
                }
                bytes.push(byte);
                self.bump();
            }
        }
        self.skip(false);
        match self.peek() {
            Some(b';' | b'}' | b'\n') | None => {}
            Some(_) => {
                return Err(place.error(format!(
                    "the value of {word} ends before its line does: put all of it in quotes, and what follows on a line of its own"
                )));
            }
        }
        Ok(Value { bytes, place })
    }

    fn quoted(&mut self, out: &mut Vec<u8>) -> Result<(), ParseError> {
        let place = self.place();
        let open = || place.error("a text in quotes is not closed on its line");
        self.bump();
        loop {
            match self.bump().ok_or_else(open)? {
                b'"' => return Ok(()),
                b'\n' => return Err(open()),
                b'\\' => match self.bump().ok_or_else(open)? {
                    b'\n' => return Err(open()),
                    byte => out.push(byte),
                },
                byte => out.push(byte),
            }
        }
    }

    /// `@file`, `@"file"`, `@|command`, `@|"command"`.
    fn include(&mut self) -> Result<(), ParseError> {
        let place = self.place();
        self.bump();
        let mut command = self.peek() == Some(b'|');
        if command {
            self.bump();
        }
        let mut name = Vec::new();
        if self.peek() == Some(b'"') {
            self.quoted(&mut name)?;
            if !command && name.first() == Some(&b'|') {
                command = true;
                name.remove(0);
            }
        } else {
            while let Some(byte) = self.peek()
                && !matches!(byte, b';' | b',' | b'{' | b'}' | b'#' | b'"')
                && !byte.is_ascii_whitespace()
            {
                name.push(byte);
                self.bump();
            }
        }
        let Ok(name) = String::from_utf8(name) else {
            return Err(place.error("what @ includes is no UTF-8 text"));
        };
        if name.is_empty() {
            return Err(place.error("@ is followed by no name of a file"));
        }
        self.included += 1;
        if self.texts.len() >= MOST_DEEP || self.included > MOST_INCLUDED {
            return Err(place.error(format!("@{name} is included too often: does it include itself?")));
        }
        let folder = self.folder();
        if command {
            let bytes = self.run(&name, &place)?;
            self.push(format!("@|{name}").into(), folder, bytes);
        } else {
            if name.contains(['*', '?', '[']) {
                return Err(place.error(format!("@{name} is a wildcard, which is not supported: name each file")));
            }
            let path = folder.join(&name);
            let bytes = self.read(&path, &place)?;
            let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
            self.push(path.display().to_string().into(), folder, bytes);
        }
        Ok(())
    }

    /// What a file holds.
    pub(crate) fn read(&mut self, file: &Path, place: &Place) -> Result<Vec<u8>, ParseError> {
        match self.surroundings.read(file) {
            Ok(bytes) if bytes.len() > MOST_BYTES => {
                Err(place.error(format!("{} is larger than 64 MiB", file.display())))
            }
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(place.error(format!("{} cannot be read: {error}", file.display()))),
        }
    }

    /// What a command prints. `%%` in it is one `%`.
    pub(crate) fn run(&mut self, command: &str, place: &Place) -> Result<Vec<u8>, ParseError> {
        let mut plain = String::with_capacity(command.len());
        let mut characters = command.chars();
        while let Some(character) = characters.next() {
            plain.push(character);
            if character == '%' && characters.next() != Some('%') {
                return Err(place.error(
                    "Bareos' job codes (% and a letter) are not known here: write %% for a %, or put the command into a script",
                ));
            }
        }
        match self.surroundings.run(&plain) {
            Ok(bytes) if bytes.len() > MOST_BYTES => {
                Err(place.error(format!("the command \"{plain}\" printed more than 64 MiB")))
            }
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(place.error(format!("the command \"{plain}\" failed: {error}"))),
        }
    }
}
