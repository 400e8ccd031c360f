//! FileSet resources, as Bareos' configuration has them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::input::{Follows, Input, Place, Start, Value};
use crate::keywords::{self, ACCURATE_NOTE, Action, OPTIONS, STORED_NOTE, meant, plain};
use crate::model::{Exclude, FileSet, Include, Options, Pattern, SizeRule, bit};
use crate::regular::Regular;

/// What a configuration may need of the system: the parser itself touches nothing.
pub trait Surroundings {
    /// What a file holds: the configuration itself, files that it includes, lists of files (`<`).
    ///
    /// # Errors
    /// What the system said.
    fn read(&mut self, file: &Path) -> io::Result<Vec<u8>>;

    /// What a command of the configuration prints (`@|`, and lists that begin with `|`).
    ///
    /// # Errors
    /// What the system said, or that the command failed.
    fn run(&mut self, command: &str) -> io::Result<Vec<u8>>;
}

/// What is wrong with a configuration: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong, and what to do.
    pub what: String,
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file, self.what)
        } else {
            write!(f, "{}, line {}: {}", self.file, self.line, self.what)
        }
    }
}

impl std::error::Error for ParseError {}

/// Reads the FileSet resources of a configuration file.
///
/// # Errors
/// The first thing that is wrong: [`ParseError`].
pub fn parse(file: &Path, surroundings: &mut dyn Surroundings) -> Result<Vec<FileSet>, ParseError> {
    let mut parser = Parser { input: Input::new(file, surroundings)?, notes: BTreeSet::new() };
    let mut sets: Vec<FileSet> = Vec::new();
    loop {
        match parser.input.statement()? {
            Start::End => break,
            Start::Close => return Err(parser.input.place().error("there is a } without a {")),
            Start::Word(word, written) => {
                let place = parser.input.place();
                if word != "fileset" {
                    return Err(unknown(&place, &word, &written, "at the top", ["FileSet"].into_iter()));
                }
                if parser.input.follows(&written)? != Follows::Brace {
                    return Err(place.error("FileSet is followed by {"));
                }
                let set = parser.file_set(&place)?;
                if sets.iter().any(|other| other.name == set.name) {
                    return Err(place.error(format!("there are two FileSets with the name \"{}\"", set.name)));
                }
                sets.push(set);
            }
        }
    }
    if sets.is_empty() {
        let what = "there is no FileSet in it: it should read FileSet { Name = ...; Include { File = ... } }";
        return Err(ParseError { file: file.display().to_string(), line: 0, what: what.to_owned() });
    }
    Ok(sets)
}

fn unknown<'a>(
    place: &Place,
    word: &str,
    written: &str,
    whence: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> ParseError {
    place.error(match meant(word, known.clone()) {
        Some(meant) => format!("there is no keyword \"{written}\" {whence}: is \"{meant}\" meant?"),
        None => {
            let known = known.collect::<Vec<_>>().join(", ");
            format!("there is no keyword \"{written}\" {whence}: known are {known}")
        }
    })
}

struct Parser<'a> {
    input: Input<'a>,
    /// Directives that change nothing, and why.
    notes: BTreeSet<(&'static str, &'static str)>,
}

impl Parser<'_> {
    /// The next word of a block; none at its `}`.
    fn inside(&mut self, block: &str, opened: &Place) -> Result<Option<(String, String, Place)>, ParseError> {
        match self.input.statement()? {
            Start::Word(word, written) => Ok(Some((word, written, self.input.place()))),
            Start::Close => Ok(None),
            Start::End => Err(opened.error(format!("{block} {{ is not closed by }}"))),
        }
    }

    fn expects(&mut self, written: &str, place: &Place, wanted: Follows) -> Result<(), ParseError> {
        let found = self.input.follows(written)?;
        if found == wanted {
            return Ok(());
        }
        Err(place.error(match wanted {
            Follows::Equals => format!("\"{written}\" is followed by = and a value"),
            Follows::Brace => format!("\"{written}\" is followed by {{"),
        }))
    }

    fn setting(&mut self, written: &str, place: &Place) -> Result<Value, ParseError> {
        self.expects(written, place, Follows::Equals)?;
        self.input.value(written)
    }

    fn file_set(&mut self, opened: &Place) -> Result<FileSet, ParseError> {
        let mut set = FileSet::default();
        let mut named = false;
        self.notes.clear();
        while let Some((word, written, place)) = self.inside("FileSet", opened)? {
            match word.as_str() {
                "name" => {
                    set.name = text(&self.setting(&written, &place)?, "Name")?;
                    named = !set.name.is_empty();
                }
                "description" => set.description = Some(text(&self.setting(&written, &place)?, "Description")?),
                "ignorefilesetchanges" => {
                    let value = self.setting(&written, &place)?;
                    yes_or_no(&value, "Ignore FileSet Changes")?;
                    self.notes.insert((
                        "Ignore FileSet Changes",
                        "another FileSet never makes a backup read more than what is new in it",
                    ));
                }
                "enablevss" => {
                    let value = self.setting(&written, &place)?;
                    yes_or_no(&value, "Enable VSS")?;
                    self.notes.insert(("Enable VSS", "only Windows has it"));
                }
                "include" => {
                    self.expects(&written, &place, Follows::Brace)?;
                    let include = self.include(&place)?;
                    set.includes.push(include);
                }
                "exclude" => {
                    self.expects(&written, &place, Follows::Brace)?;
                    let exclude = self.exclude(&place)?;
                    set.excludes.push(exclude);
                }
                _ => return Err(unknown(&place, &word, &written, "in a FileSet", keywords::FILE_SET.iter().copied())),
            }
        }
        if !named {
            return Err(opened.error("this FileSet has no name: add Name = ..."));
        }
        if set.includes.is_empty() {
            return Err(
                opened.error(format!("the FileSet \"{}\" has no Include {{ ... }}: it would save nothing", set.name))
            );
        }
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for (directive, reason) in std::mem::take(&mut self.notes) {
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, directives)) => directives.push(directive),
                None => reasons.push((reason, vec![directive])),
            }
        }
        set.notes = reasons
            .into_iter()
            .map(|(reason, directives)| format!("{} changes nothing here: {reason}", directives.join(", ")))
            .collect();
        Ok(set)
    }

    fn include(&mut self, opened: &Place) -> Result<Include, ParseError> {
        let mut include = Include::default();
        while let Some((word, written, place)) = self.inside("Include", opened)? {
            match word.as_str() {
                "options" => {
                    self.expects(&written, &place, Follows::Brace)?;
                    let options = self.options(&place)?;
                    include.options.push(options);
                }
                "file" => {
                    let value = self.setting(&written, &place)?;
                    for (file, place) in self.expanded(&value, "File")? {
                        if file.first() != Some(&b'/') {
                            return Err(place.error(format!(
                                "File = {} is relative: name it from the root, as /...",
                                String::from_utf8_lossy(&file)
                            )));
                        }
                        if file.contains(&0) {
                            return Err(place.error("a name in File holds a zero byte"));
                        }
                        include.files.push(file);
                    }
                }
                "plugin" => {
                    let value = self.setting(&written, &place)?;
                    for (definition, place) in self.expanded(&value, "Plugin")? {
                        include.plugins.push(definition_text(definition, &place)?);
                    }
                }
                "excludedircontaining" => {
                    let value = self.setting(&written, &place)?;
                    if value.bytes.is_empty() || value.bytes.contains(&b'/') {
                        return Err(value
                            .place
                            .error("Exclude Dir Containing takes the name of a file, without a slash"));
                    }
                    include.exclude_dir_containing.push(value.bytes);
                }
                _ => return Err(unknown(&place, &word, &written, "in an Include", keywords::INCLUDE.iter().copied())),
            }
        }
        if include.options.is_empty() {
            include.options.push(Options::default());
        }
        Ok(include)
    }

    fn exclude(&mut self, opened: &Place) -> Result<Exclude, ParseError> {
        let mut exclude = Exclude::default();
        while let Some((word, written, place)) = self.inside("Exclude", opened)? {
            match word.as_str() {
                "file" => {
                    let value = self.setting(&written, &place)?;
                    exclude.files.extend(self.expanded(&value, "File")?.into_iter().map(|(file, _)| file));
                }
                "plugin" | "options" => {
                    return Err(place.error(format!("{written} is not allowed in an Exclude, only File is")));
                }
                _ => return Err(unknown(&place, &word, &written, "in an Exclude", keywords::EXCLUDE.iter().copied())),
            }
        }
        Ok(exclude)
    }

    /// A value itself, or the lines of what it names: `<file`, `|command`, with or without a backslash before it (on the
    /// director's side or the client's, which is one host here).
    fn expanded(&mut self, value: &Value, written: &str) -> Result<Vec<(Vec<u8>, Place)>, ParseError> {
        let place = &value.place;
        if value.bytes.is_empty() {
            return Err(place.error(format!("{written} = \"\" names nothing")));
        }
        let plain = value.bytes.strip_prefix(b"\\").unwrap_or(&value.bytes);
        let (name, bytes) = match plain {
            [b'<', list @ ..] => {
                let path = self.input.folder().join(OsStr::from_bytes(list));
                let bytes = self.input.read(&path, place)?;
                (path.display().to_string(), bytes)
            }
            [b'|', command @ ..] => {
                let command = String::from_utf8(command.to_vec())
                    .map_err(|_| place.error(format!("the command of {written} is no UTF-8 text")))?;
                let bytes = self.input.run(&command, place)?;
                (format!("|{command}"), bytes)
            }
            _ => return Ok(vec![(value.bytes.clone(), place.clone())]),
        };
        let name: std::sync::Arc<str> = name.into();
        let lines = bytes.split(|byte| *byte == b'\n').enumerate();
        Ok(lines
            .map(|(number, line)| {
                (line.trim_ascii_end().to_vec(), Place { file: std::sync::Arc::clone(&name), line: number + 1 })
            })
            .filter(|(line, _)| !line.is_empty())
            .collect())
    }

    fn options(&mut self, opened: &Place) -> Result<Options, ParseError> {
        let mut options = Options::default();
        // Expressions are compiled when the whole block is known: Ignore Case may follow them.
        let mut expressions: Vec<(Place, usize)> = Vec::new();
        while let Some((word, written, place)) = self.inside("Options", opened)? {
            let Some(directive) = OPTIONS.iter().find(|directive| directive.word == word) else {
                let known = OPTIONS.iter().map(|directive| directive.written);
                return Err(unknown(&place, &word, &written, "in Options", known));
            };
            if let Action::Refused(why) = directive.action {
                return Err(place.error(format!("{} is not supported: {why}", directive.written)));
            }
            let value = self.setting(&written, &place)?;
            if let Action::Pattern(kind) = directive.action {
                if value.bytes.is_empty() {
                    return Err(value.place.error(format!("{} has an empty pattern", directive.written)));
                }
                expressions.push((value.place, options.patterns.len()));
                options.patterns.push(Pattern { kind, text: value.bytes });
                continue;
            }
            self.option(&mut options, directive, &value)?;
        }
        for (place, at) in expressions {
            let pattern = &options.patterns[at];
            if pattern.kind.directive().starts_with("Regex")
                && let Err(error) = Regular::new(&pattern.text, options.is_on(bit::IGNORE_CASE))
            {
                return Err(place.error(format!(
                    "{} = \"{}\" cannot be used: {error}",
                    pattern.kind.directive(),
                    String::from_utf8_lossy(&pattern.text)
                )));
            }
        }
        Ok(options)
    }

    fn option(
        &mut self,
        options: &mut Options,
        directive: &keywords::Directive,
        value: &Value,
    ) -> Result<(), ParseError> {
        let written = directive.written;
        let place = &value.place;
        let one_of = |known: &[&str]| -> Result<String, ParseError> {
            let word = plain(&value.bytes);
            if known.iter().any(|known| plain(known.as_bytes()) == word) {
                return Ok(word);
            }
            Err(place.error(format!(
                "{written} = {} is not known: it can be {}",
                String::from_utf8_lossy(&value.bytes),
                known.join(", ")
            )))
        };
        match directive.action {
            Action::Sets(bit) => options.set(bit, yes_or_no(value, written)?),
            Action::Clears(bit) => options.set(bit, !yes_or_no(value, written)?),
            Action::Harmless(bit, when, note) => {
                options.set(bit, yes_or_no(value, written)? == when);
                self.notes.insert((written, note));
            }
            Action::Only(only, bit, why) => {
                let answer = yes_or_no(value, written)?;
                if answer != only {
                    return Err(place.error(format!("{written} = yes is not supported: {why}")));
                }
                options.set(bit, answer);
            }
            Action::Compression => {
                let levels = ["GZIP", "GZIP1", "GZIP2", "GZIP3", "GZIP4", "GZIP5", "GZIP6", "GZIP7", "GZIP8", "GZIP9"];
                let others = ["LZO", "LZFAST", "LZ4", "LZ4HC"];
                one_of(&[&levels[..], &others[..]].concat())?;
                options.set(bit::COMPRESS, true);
                self.notes.insert((written, STORED_NOTE));
            }
            Action::Signature => {
                let kinds = [
                    ("md5", bit::MD5),
                    ("sha1", bit::SHA1),
                    ("sha256", bit::SHA256),
                    ("sha512", bit::SHA512),
                    ("xxh128", bit::XXH128),
                ];
                let word = one_of(&["MD5", "SHA1", "SHA256", "SHA512", "XXH128"])?;
                for (kind, bit) in kinds {
                    options.set(bit, kind == word);
                }
                self.notes.insert((written, STORED_NOTE));
            }
            Action::Encryption => {
                if !value.bytes.iter().all(u8::is_ascii_alphanumeric) || value.bytes.is_empty() {
                    return Err(place.error("Encryption takes the name of a cipher, as in Encryption = AES128"));
                }
                options.set(bit::ENCRYPT, true);
                self.notes.insert((written, STORED_NOTE));
            }
            Action::Accurate => {
                let letters = text(value, written)?;
                if let Some(letter) = letters.chars().find(|letter| matches!(letter, 'A' | '5' | '1')) {
                    return Err(place.error(format!(
                        "Accurate = {letters} is not supported: {letter} asks for every file to be read; \"backup --force\" does that"
                    )));
                }
                if let Some(letter) = letters.chars().find(|letter| !"ipnugsamcd".contains(*letter)) {
                    return Err(place.error(format!(
                        "Accurate = {letters} is not known: {letter} is none of the letters i p n u g s a m c d"
                    )));
                }
                self.notes.insert((written, ACCURATE_NOTE));
                options.accurate = Some(letters.to_owned());
            }
            Action::Letters(note) => {
                let letters = text(value, written)?;
                if !letters.chars().all(|letter| letter.is_ascii_alphanumeric()) {
                    return Err(place.error(format!("{written} = {letters} is not known: letters are expected")));
                }
                self.notes.insert((written, note));
            }
            Action::Shadowing => {
                one_of(&["none", "localwarn", "localremove", "globalwarn", "globalremove"])?;
                self.notes.insert((written, "a folder inside another one is walked once"));
            }
            Action::StripPath => {
                if value.bytes != b"0" {
                    return Err(place.error(
                        "Strip Path is not supported: names are saved whole; \"restore SNAPSHOT:FOLDER\" takes the front off",
                    ));
                }
            }
            Action::Size => {
                let rule = size_rule(&text(value, written)?).ok_or_else(|| {
                    place.error(
                        "Size is not known: it should read Size = 10M, \"1k-10M\", \"less 10M\" or \"greater 10M\"",
                    )
                })?;
                options.size = Some(rule);
            }
            Action::FsType => {
                let kind = text(value, written)?;
                if kind.is_empty() {
                    return Err(place.error("Fs Type is empty: a kind of file system is expected, as ext4 or xfs"));
                }
                options.fs_types.push(kind);
            }
            Action::Replace => {
                if one_of(&["always", "ifnewer", "ifolder", "never"])? != "always" {
                    return Err(
                        place.error("Replace is not supported in a FileSet: \"restore --overwrite\" decides about it")
                    );
                }
            }
            Action::Plugin => {
                options.plugin = Some(definition_text(value.bytes.clone(), place)?);
                options.set(bit::PLUGIN, true);
            }
            Action::Pattern(_) | Action::Refused(_) => {}
        }
        Ok(())
    }
}

fn text(value: &Value, written: &str) -> Result<String, ParseError> {
    String::from_utf8(value.bytes.clone())
        .map(|text| text.trim().to_owned())
        .map_err(|_| value.place.error(format!("the value of {written} is no UTF-8 text")))
}

fn definition_text(bytes: Vec<u8>, place: &Place) -> Result<String, ParseError> {
    let text = String::from_utf8(bytes).map_err(|_| place.error("a plugin definition is no UTF-8 text"))?;
    if text.trim().is_empty() || text.contains('\0') {
        return Err(place.error("a plugin definition is empty, or holds a zero byte"));
    }
    Ok(text)
}

fn yes_or_no(value: &Value, written: &str) -> Result<bool, ParseError> {
    match plain(&value.bytes).as_str() {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        other => Err(value.place.error(format!("{written} = {other} is not known: it can be yes or no"))),
    }
}

/// `10M`, `1k-10M`, `less 10M`, `greater 10M`.
fn size_rule(text: &str) -> Option<SizeRule> {
    let lower = text.to_ascii_lowercase();
    if let Some(limit) = lower.strip_prefix("less") {
        return bytes(limit).map(SizeRule::Less);
    }
    if let Some(limit) = lower.strip_prefix("greater") {
        return bytes(limit).map(SizeRule::Greater);
    }
    match lower.split_once('-') {
        Some((low, high)) => {
            let (low, high) = (bytes(low)?, bytes(high)?);
            (low <= high).then_some(SizeRule::Between(low, high))
        }
        None => bytes(&lower).map(SizeRule::About),
    }
}

/// A number of bytes: `k`, `m`, `g`, `t` are powers of 1024; with a `b` behind them of 1000.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim();
    let (base, power) = match unit {
        "" | "b" => (1, 0),
        _ => {
            let power = "kmgt".find(unit.chars().next()?)? + 1;
            match &unit[1..] {
                "" => (1024_u64, power),
                "b" => (1000, power),
                _ => return None,
            }
        }
    };
    number.checked_mul(base.checked_pow(u32::try_from(power).ok()?)?)
}

#[cfg(test)]
mod tests;
