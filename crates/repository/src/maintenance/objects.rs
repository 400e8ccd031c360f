//! Single objects as they are stored: found by the beginning of their id, decrypted, as text for people.

use backstay_core::{Id, ObjectKind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::Error;
use crate::gotext::to_json;
use crate::index::Index;
use crate::pack::BlobKind;
use crate::repository::Repository;

/// The one object of a kind whose id begins with `prefix`.
///
/// # Errors
/// None fits, or several do; [`Error::Store`].
pub fn find_object(repository: &Repository, kind: ObjectKind, prefix: &str) -> Result<Id, Error> {
    if let Ok(id) = prefix.parse() {
        // A whole id needs no listing.
        return match repository.store().size(kind, &id)? {
            Some(_) => Ok(id),
            None => Err(none(kind, prefix)),
        };
    }
    let prefix = hexadecimal(prefix).ok_or_else(|| none(kind, prefix))?;
    let ids = repository.store().list(kind)?.into_iter().map(|(id, _)| id);
    single(ids.filter(|id| id.to_hex().starts_with(&prefix)), kind, &prefix)
}

/// The blob whose id begins with `prefix`; where a tree and a piece of a file have one id, the piece of a file.
///
/// # Errors
/// None fits, or several do.
pub fn find_blob(index: &Index, prefix: &str) -> Result<(BlobKind, Id), Error> {
    let kind_of = |id: &Id| [BlobKind::Data, BlobKind::Tree].into_iter().find(|kind| index.contains(*kind, id));
    let id = match prefix.parse() {
        Ok(id) => id,
        Err(_) => {
            let prefix = hexadecimal(prefix).ok_or_else(|| none("blob", prefix))?;
            let mut found: Vec<Id> =
                index.blobs().map(|(_, blob)| blob.id).filter(|id| id.to_hex().starts_with(&prefix)).collect();
            found.sort_unstable();
            found.dedup();
            single(found.into_iter(), "blob", &prefix)?
        }
    };
    kind_of(&id).map(|kind| (kind, id)).ok_or_else(|| none("blob", prefix))
}

fn hexadecimal(prefix: &str) -> Option<String> {
    let prefix = prefix.to_ascii_lowercase();
    (!prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(prefix)
}

fn none(kind: impl std::fmt::Display, prefix: &str) -> Error {
    Error::Other(format!("there is no {kind} whose id is or begins with \"{prefix}\""))
}

fn single(mut found: impl Iterator<Item = Id>, kind: impl std::fmt::Display, prefix: &str) -> Result<Id, Error> {
    let Some(first) = found.next() else { return Err(none(kind, prefix)) };
    match found.count() {
        0 => Ok(first),
        more => Err(Error::Ambiguous(format!(
            "\"{prefix}\" is ambiguous: the ids of {} objects of the kind {kind} begin with it. Give more of its digits",
            more + 1
        ))),
    }
}

/// The JSON of a config, key, snapshot, index file or lock, exactly as it is stored.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Store`].
pub fn object_json(repository: &Repository, kind: ObjectKind, id: &Id) -> Result<Vec<u8>, Error> {
    match kind {
        ObjectKind::Config => {
            let sealed = repository.store().get(kind, id, None)?;
            repository.key().open(&sealed).map_err(|error| Error::damaged(kind, id, error))
        }
        ObjectKind::Key => {
            let file = repository.store().get(kind, id, None)?;
            if Id::of(&file) == *id {
                Ok(file)
            } else {
                Err(Error::damaged(kind, id, "its contents do not match its name"))
            }
        }
        ObjectKind::Pack => Err(Error::Other("a pack holds no JSON".to_owned())),
        ObjectKind::Lock | ObjectKind::Snapshot | ObjectKind::Index => repository.load_unpacked(kind, id),
    }
}

/// The key of everything in the repository, as key files wrap it. Whoever has it needs no password.
///
/// # Errors
/// None in practice.
pub fn master_key_json(repository: &Repository) -> Result<Vec<u8>, Error> {
    let (encrypt, k, r) = repository.key().parts();
    let [encrypt, k, r] = [&encrypt[..], &k[..], &r[..]].map(|part| STANDARD.encode(part));
    // The order of the fields is the one in key files.
    #[derive(serde::Serialize)]
    struct Mac {
        k: String,
        r: String,
    }
    #[derive(serde::Serialize)]
    struct Master {
        mac: Mac,
        encrypt: String,
    }
    to_json(&Master { mac: Mac { k, r }, encrypt }).map_err(|error| Error::Other(error.to_string()))
}

/// JSON with a line for each value, two blanks for each level, and every text in it as it was.
#[must_use]
pub fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut level = 0_usize;
    let mut at = 0;
    let line = |out: &mut Vec<u8>, level: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * level, b' ');
    };
    let next = |at: usize| json[at..].iter().position(|byte| !byte.is_ascii_whitespace()).map(|found| at + found);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => {
                let start = at;
                at += 1;
                while let Some(&inside) = json.get(at) {
                    match inside {
                        b'\\' => at += 1,
                        b'"' => break,
                        _ => {}
                    }
                    at += 1;
                }
                out.extend_from_slice(&json[start..json.len().min(at + 1)]);
            }
            b'{' | b'[' => {
                out.push(byte);
                let close = if byte == b'{' { b'}' } else { b']' };
                match next(at + 1) {
                    Some(end) if json[end] == close => {
                        out.push(close);
                        at = end;
                    }
                    _ => {
                        level += 1;
                        line(&mut out, level);
                    }
                }
            }
            b'}' | b']' => {
                level = level.saturating_sub(1);
                line(&mut out, level);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, level);
            }
            b':' => out.extend_from_slice(b": "),
            _ if byte.is_ascii_whitespace() => {}
            _ => out.push(byte),
        }
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_as_go_does_it_and_texts_stay_as_they_are() {
        let json = br#" {"a":"x, {\"y\":[1]} \u003c","b":[ ],"c":{},"d":[1,-2.5,null],"e":{"f":"\\"}} "#;
        let expected = concat!(
            "{\n  \"a\": \"x, {\\\"y\\\":[1]} \\u003c\",\n  \"b\": [],\n  \"c\": {},\n  \"d\": [\n    1,\n    -2.5,\n",
            "    null\n  ],\n  \"e\": {\n    \"f\": \"\\\\\"\n  }\n}"
        );
        assert_eq!(String::from_utf8(indented(json)).unwrap(), expected);
        // What is no JSON ends all the same.
        for broken in [&b"\"a"[..], b"\"\\", b"{", b"}]", b""] {
            assert!(indented(broken).len() < 10);
        }
    }
}
