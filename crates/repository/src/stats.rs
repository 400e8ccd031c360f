//! How much snapshots hold, counted in restic's four ways.

use std::collections::HashSet;

use backstay_core::{FileKind, Id};
use serde::Serialize;

use crate::error::Error;
use crate::pack::BlobKind;
use crate::reader::Result;
use crate::reader::{Reader, plain_length};
use crate::walk::walk;

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatsMode {
    /// The size of everything as if each snapshot were restored, hard links once each.
    #[default]
    RestoreSize,
    /// Files with the same contents once.
    FilesByContents,
    /// Each blob once per file that uses it.
    BlobsPerFile,
    /// Each blob once, as it is stored.
    RawData,
}

impl std::str::FromStr for StatsMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "restore-size" => Self::RestoreSize,
            "files-by-contents" => Self::FilesByContents,
            "blobs-per-file" => Self::BlobsPerFile,
            "raw-data" => Self::RawData,
            _ => {
                return Err(Error::Other(format!(
                    "{text:?} is not a mode: restore-size, files-by-contents, blobs-per-file and raw-data are"
                )));
            }
        })
    }
}

/// The sums (reference 19.2). Those that are zero are left out of the JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StatsReport {
    /// Bytes.
    pub total_size: u64,
    /// Bytes before compression (raw data only).
    #[serde(skip_serializing_if = "is_zero")]
    pub total_uncompressed_size: u64,
    /// How many times smaller compression made the blobs that it touched.
    #[serde(skip_serializing_if = "is_zero_f64")]
    pub compression_ratio: f64,
    /// Percentage of the bytes that are stored compressed.
    #[serde(skip_serializing_if = "is_zero_f64")]
    pub compression_progress: f64,
    /// Percentage of the bytes that compression saves.
    #[serde(skip_serializing_if = "is_zero_f64")]
    pub compression_space_saving: f64,
    /// Nodes (directories too where restic counts them).
    #[serde(skip_serializing_if = "is_zero")]
    pub total_file_count: u64,
    /// Blobs.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_blob_count: u64,
    /// Snapshots that were looked at.
    pub snapshots_count: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_zero_f64(value: &f64) -> bool {
    *value == 0.0
}

/// Adds up the snapshots whose root trees are `roots`. `skip_internal` leaves out `/.backstay`, except for raw data.
///
/// # Errors
/// A tree could not be read, or a blob is not in the index.
pub fn stats(reader: &Reader, roots: &[Id], mode: StatsMode, skip_internal: bool) -> Result<StatsReport> {
    let mut report = StatsReport { snapshots_count: roots.len() as u64, ..StatsReport::default() };
    if mode == StatsMode::RawData {
        raw_data(reader, roots, &mut report)?;
        return Ok(report);
    }
    let mut contents = HashSet::new();
    let mut blobs_of_files = HashSet::new();
    for root in roots {
        let mut linked = HashSet::new();
        for step in walk(reader, root, skip_internal) {
            let entry = step.map_err(|failed| Error::Other(failed.to_string()))?;
            let node = entry.node;
            if mode == StatsMode::RestoreSize {
                report.total_file_count += 1;
                let single = node.links <= 1 || node.inode == 0 || node.kind == FileKind::Directory;
                if single || linked.insert((node.device_id, node.inode)) {
                    report.total_size += node.size;
                }
                continue;
            }
            let content = node.content.unwrap_or_default();
            if !contents.insert(contents_id(&content)) {
                continue;
            }
            if mode == StatsMode::FilesByContents {
                report.total_file_count += 1;
                report.total_size += node.size;
                continue;
            }
            let path = Id::of(&entry.path);
            for (number, id) in content.iter().enumerate() {
                if blobs_of_files.insert((path, *id)) {
                    report.total_size += reader.blob_length(BlobKind::Data, id)?;
                    report.total_blob_count += 1;
                    if number == 0 {
                        report.total_file_count += 1;
                    }
                }
            }
        }
    }
    Ok(report)
}

/// What stands for a file's contents: the hash of its blobs' ids.
fn contents_id(content: &[Id]) -> Id {
    let bytes: Vec<u8> = content.iter().flat_map(|id| id.0).collect();
    Id::of(&bytes)
}

fn raw_data(reader: &Reader, roots: &[Id], report: &mut StatsReport) -> Result<()> {
    let mut used: HashSet<(BlobKind, Id)> = HashSet::new();
    let mut waiting: Vec<Id> = roots.to_vec();
    while let Some(tree) = waiting.pop() {
        if !used.insert((BlobKind::Tree, tree)) {
            continue;
        }
        let nodes = reader.tree_once(&tree)?.nodes;
        // The last one comes next.
        let new = nodes.iter().rev().filter_map(|node| node.subtree.as_ref());
        reader.prefetch(BlobKind::Tree, new.filter(|tree| !used.contains(&(BlobKind::Tree, **tree))).take(32));
        for node in nodes {
            match node.kind {
                FileKind::Directory => waiting.extend(node.subtree),
                FileKind::File => used.extend(node.content.iter().flatten().map(|id| (BlobKind::Data, *id))),
                _ => {}
            }
        }
    }
    let (mut compressed, mut compressed_plain) = (0_u64, 0_u64);
    for (kind, id) in &used {
        let location = reader.locate(*kind, id)?;
        let plain = plain_length(&location);
        report.total_size += u64::from(location.length);
        report.total_uncompressed_size += plain;
        report.total_blob_count += 1;
        if location.uncompressed.is_some() {
            compressed += u64::from(location.length);
            compressed_plain += plain;
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "ratios for people")]
    if report.total_uncompressed_size > 0 {
        let plain = report.total_uncompressed_size as f64;
        if compressed > 0 {
            report.compression_ratio = compressed_plain as f64 / compressed as f64;
        }
        report.compression_progress = compressed_plain as f64 / plain * 100.0;
        report.compression_space_saving = (1.0 - report.total_size as f64 / plain) * 100.0;
    }
    Ok(())
}
