//! What a server's answers mean: lists of either version, and the bytes of a range.

use std::ops::Range;

use backstay_core::{Id, StoreError};
use reqwest::StatusCode;
use serde::Deserialize;

use super::VERSION_2;
use super::transfer::{Answer, Transfer};

/// The objects of a kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// With their sizes in bytes: version 2.
    Sized(Vec<(Id, u64)>),
    /// Names only: version 1.
    Names(Vec<Id>),
}

impl Default for Listed {
    fn default() -> Self {
        Self::Sized(Vec::new())
    }
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    size: u64,
}

/// Reads a list. Foreign names are left out.
pub(super) fn listed(transfer: &Transfer, answer: &Answer) -> Result<Listed, StoreError> {
    let not_a_list = |_| {
        let kind = answer.media_type.as_deref().unwrap_or("no type");
        transfer
            .wrong(format!("the answer ({kind}) is no list of objects: is this the address of a restic REST server?"))
    };
    if answer.media_type.as_deref() == Some(VERSION_2) {
        let entries: Option<Vec<Entry>> = serde_json::from_slice(&answer.body).map_err(not_a_list)?;
        let entries = entries.unwrap_or_default().into_iter();
        return Ok(Listed::Sized(entries.filter_map(|entry| Some((own_name(&entry.name)?, entry.size))).collect()));
    }
    let names: Option<Vec<String>> = serde_json::from_slice(&answer.body).map_err(not_a_list)?;
    Ok(Listed::Names(names.unwrap_or_default().iter().filter_map(|name| own_name(name)).collect()))
}

/// Objects have lower-case names only.
fn own_name(name: &str) -> Option<Id> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { None } else { name.parse().ok() }
}

/// The bytes of `range`, which is not empty, out of the answer to a request for it.
pub(super) fn cut(transfer: &Transfer, answer: Answer, range: &Range<u64>) -> Result<Vec<u8>, StoreError> {
    let length = range.end - range.start;
    match answer.status {
        StatusCode::PARTIAL_CONTENT => {}
        // The whole object: this server knows no ranges.
        StatusCode::OK => {
            let mut body = answer.body;
            let bounds = (usize::try_from(range.start), usize::try_from(range.end));
            return match bounds {
                (Ok(start), Ok(end)) if end <= body.len() => {
                    body.truncate(end);
                    body.drain(..start);
                    Ok(body)
                }
                _ => Err(transfer.beyond(body.len() as u64, range)),
            };
        }
        _ => return Err(transfer.refused(&answer)),
    }
    if let Some((first, size)) = answer.content_range {
        if first != range.start {
            return Err(
                transfer.wrong(format!("asked for bytes from {}, the server sent those from {first}", range.start))
            );
        }
        if size.is_some_and(|size| size < range.end) {
            return Err(transfer.beyond(size.unwrap_or_default(), range));
        }
    }
    if answer.body.len() as u64 == length {
        return Ok(answer.body);
    }
    Err(transfer.truncated(answer.body.len() as u64, length))
}
