//! The lines of the journal: what happened, one thing each, in words that people can read too.

use std::fmt;

use backstay_core::{Id, ObjectKind};

use crate::numbers::{CLASSES, Class, Generation};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A generation begins: its number is used from now on.
    Open {
        /// Which.
        generation: Generation,
        /// The process that fills it.
        writer: String,
    },
    /// Its writer adds nothing more.
    Full(Generation),
    /// An object is stored. One of the same name that was elsewhere is garbage now.
    Put {
        /// What it is.
        kind: ObjectKind,
        /// Its name in the repository; zeros for the config.
        id: Id,
        /// Where it lies.
        object: Object,
    },
    /// So much of a failed attempt may lie in a generation.
    Dead {
        /// Which.
        generation: Generation,
        /// How much at the most.
        bytes: u64,
    },
    /// An object is garbage.
    Delete {
        /// What it is.
        kind: ObjectKind,
        /// Its name in the repository.
        id: Id,
    },
    /// A timestamp was deleted.
    Gone(Generation),
    /// A copy of the journal is about to be stored under this number.
    Piece(u32),
    /// A copy is stored.
    Kept {
        /// Its number.
        piece: u32,
        /// The number of the line behind its last one.
        line: u64,
    },
    /// All numbers of a class below one are used.
    Next {
        /// Of which class.
        class: Class,
        /// The first that is not.
        number: u32,
    },
}

/// Where an object lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// In bytes.
    pub size: u64,
    /// In which timestamp.
    pub generation: Generation,
    /// Under which name.
    pub name: String,
    /// Of its content.
    pub sha256: Id,
}

const KINDS: [(ObjectKind, &str); 5] = [
    (ObjectKind::Config, "config"),
    (ObjectKind::Key, "key"),
    (ObjectKind::Snapshot, "snapshot"),
    (ObjectKind::Index, "index"),
    (ObjectKind::Pack, "pack"),
];

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { generation, writer } => write!(f, "open {generation} {writer}"),
            Self::Full(generation) => write!(f, "full {generation}"),
            Self::Put { kind, id, object: Object { size, generation, name, sha256 } } => {
                write!(f, "put {kind} {} {size} {generation} {name} ", id.to_hex())?;
                // Names are checksums most of the time.
                if sha256 == id { f.write_str("=") } else { f.write_str(&sha256.to_hex()) }
            }
            Self::Dead { generation, bytes } => write!(f, "dead {generation} {bytes}"),
            Self::Delete { kind, id } => write!(f, "delete {kind} {}", id.to_hex()),
            Self::Gone(generation) => write!(f, "gone {generation}"),
            Self::Piece(number) => write!(f, "piece {number}"),
            Self::Kept { piece, line } => write!(f, "kept {piece} {line}"),
            Self::Next { class, number } => write!(f, "next {} {number}", *class as u8),
        }
    }
}

impl Record {
    /// Reads a line; none if it is none of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let kind = |word: &str| KINDS.iter().find(|(_, name)| *name == word).map(|(kind, _)| *kind);
        Some(match *words.as_slice() {
            ["open", generation, writer] if is_name(writer) => {
                Self::Open { generation: Generation::parse(generation)?, writer: writer.to_owned() }
            }
            ["full", generation] => Self::Full(Generation::parse(generation)?),
            ["put", word, id, size, generation, name, sha256] if is_name(name) => {
                let id: Id = id.parse().ok()?;
                let sha256 = if sha256 == "=" { id } else { sha256.parse().ok()? };
                let (size, generation) = (size.parse().ok()?, Generation::parse(generation)?);
                Self::Put { kind: kind(word)?, id, object: Object { size, generation, name: name.to_owned(), sha256 } }
            }
            ["dead", generation, bytes] => {
                Self::Dead { generation: Generation::parse(generation)?, bytes: bytes.parse().ok()? }
            }
            ["delete", word, id] => Self::Delete { kind: kind(word)?, id: id.parse().ok()? },
            ["gone", generation] => Self::Gone(Generation::parse(generation)?),
            ["piece", number] => Self::Piece(below_end(number)?),
            ["kept", piece, line] => Self::Kept { piece: below_end(piece)?, line: line.parse().ok()? },
            ["next", class, number] => {
                let class = *CLASSES.get(class.parse::<usize>().ok()?)?;
                Self::Next { class, number: number.parse().ok().filter(|number| *number <= Generation::END)? }
            }
            _ => return None,
        })
    }
}

/// The number of a generation or a copy.
fn below_end(word: &str) -> Option<u32> {
    word.parse().ok().filter(|number| *number < Generation::END)
}

fn is_name(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=100).contains(&word.len()) && !word.starts_with('-') && word.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back_and_nothing_else_is_one() {
        let generation = Generation { class: Class::Index, number: 7 };
        let object = |sha256| Object { size: 5, generation, name: "index-0a-1".to_owned(), sha256: Id::of(sha256) };
        for record in [
            Record::Open { generation, writer: "00ff".to_owned() },
            Record::Full(generation),
            Record::Put { kind: ObjectKind::Index, id: Id::of(b"a"), object: object(b"a") },
            Record::Put { kind: ObjectKind::Config, id: Id::default(), object: object(b"b") },
            Record::Dead { generation, bytes: u64::MAX },
            Record::Delete { kind: ObjectKind::Key, id: Id::of(b"c") },
            Record::Gone(generation),
            Record::Piece(101),
            Record::Kept { piece: 101, line: 9 },
            Record::Next { class: Class::Packs, number: 12 },
        ] {
            assert_eq!(Record::parse(&record.to_string()), Some(record.clone()), "{record}");
        }
        for text in [
            "",
            "open 3000007",
            "open 3000007 ..",
            "put lock x",
            "full 9000000",
            "piece -1",
            "piece 1000000",
            "next 9 1",
            "next 1 1000001",
            "kept 1",
        ] {
            assert_eq!(Record::parse(text), None, "{text}");
        }
    }
}
