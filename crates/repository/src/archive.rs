//! A folder of a snapshot as one stream: a tar or a zip archive, written front to back with bounded memory.
//!
//! Nothing is left out in silence: what an archive format cannot hold is told to the caller, and what cannot be read
//! ends the archive with an error, because its place in the stream is promised already.

use std::io::Write;
use std::sync::Arc;

use backstay_core::{FileKind, Id};
use hashbrown::HashMap;

use crate::error::Error;
use crate::open_file::OpenFile;
use crate::reader::{Reader, Result};
use crate::tree::Node;
use crate::walk::walk;

mod tar;
mod zip;

/// How the entries are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// POSIX tar with pax headers where the old ones do not suffice.
    #[default]
    Tar,
    /// Zip with Unix modes, and its 64 bit records where they are needed.
    Zip,
}

/// What to put in, and how.
#[derive(Clone, Debug, Default)]
pub struct ArchiveOptions {
    /// How the entries are put together.
    pub format: ArchiveFormat,
    /// What stands in front of every name, without a slash at either end: empty, or the path of the folder.
    pub prefix: Vec<u8>,
    /// Leave out `/.backstay`.
    pub skip_internal: bool,
}

/// What was put in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchiveSummary {
    /// Entries written, of every kind.
    pub entries: u64,
    /// Bytes of files' contents.
    pub bytes: u64,
    /// Entries that the format cannot hold.
    pub left_out: u64,
}

/// What one entry is to an archive.
enum Body {
    /// A folder, a link, a device: nothing follows.
    Nothing,
    /// A file with this length in bytes.
    File(u64),
    /// Another name of the entry with this name.
    SameAs(Vec<u8>),
}

/// One of the formats.
trait Format {
    /// Why an object of this kind cannot be put in, where that is so.
    fn refuses(&self, kind: FileKind) -> Option<&'static str>;
    /// Whether a second name of a file can be a reference to its first.
    fn has_hard_links(&self) -> bool;
    /// Writes an entry; `contents` writes what is in the file, and is called once for [`Body::File`].
    fn entry(
        &mut self,
        out: &mut dyn Write,
        name: &[u8],
        node: &Node,
        body: &Body,
        contents: &mut dyn FnMut(&mut dyn Write) -> Result<()>,
    ) -> Result<()>;
    /// Writes what stands behind the last entry.
    fn finish(&mut self, out: &mut dyn Write) -> Result<()>;
}

/// Writes everything below the tree `root` to `out`, a folder before what is in it. `left_out` is told the path and the
/// reason for each entry that the format cannot hold.
///
/// # Errors
/// A folder or a file could not be read (the error names it), or `out` failed. What was written is then no archive.
pub fn write_archive(
    reader: &Arc<Reader>,
    root: &Id,
    options: &ArchiveOptions,
    out: &mut dyn Write,
    left_out: &mut dyn FnMut(&[u8], &str),
) -> Result<ArchiveSummary> {
    let mut format: Box<dyn Format> = match options.format {
        ArchiveFormat::Tar => Box::new(tar::Tar::default()),
        ArchiveFormat::Zip => Box::new(zip::Zip::new()),
    };
    let mut summary = ArchiveSummary::default();
    // The first name of each file that has several.
    let mut first_names: HashMap<(u64, u64, u64, Option<Id>), Vec<u8>> = HashMap::new();
    for step in walk(reader, root, options.skip_internal) {
        let entry = step.map_err(|error| at(&error.path, &error.error))?;
        let (node, path) = (&entry.node, &entry.path);
        if let Some(reason) = format.refuses(node.kind) {
            summary.left_out += 1;
            left_out(path, reason);
            continue;
        }
        let mut name = options.prefix.clone();
        name.extend_from_slice(if name.is_empty() { &path[1..] } else { path });
        let mut open = None;
        let body = if node.kind == FileKind::File {
            let links = (format.has_hard_links() && node.links > 1 && node.inode != 0).then(|| {
                // Programs have been seen to give one inode number to different files.
                let first = node.content.as_ref().and_then(|content| content.first().copied());
                first_names.entry((node.device_id, node.inode, node.size, first))
            });
            match links {
                Some(hashbrown::hash_map::Entry::Occupied(known)) => Body::SameAs(known.get().clone()),
                links => {
                    if let Some(new) = links {
                        new.insert(name.clone());
                    }
                    let file = OpenFile::new(Arc::clone(reader), node).map_err(|error| at(path, &error))?;
                    let length = file.size();
                    open = Some(file);
                    Body::File(length)
                }
            }
        } else {
            Body::Nothing
        };
        let mut contents = |out: &mut dyn Write| match &open {
            Some(file) => copy(file, out).map_err(|error| at(path, &error)),
            None => Ok(()),
        };
        format.entry(out, &name, node, &body, &mut contents)?;
        summary.entries += 1;
        if let Body::File(length) = body {
            summary.bytes += length;
        }
    }
    format.finish(out)?;
    Ok(summary)
}

/// Writes a file of just the length that was announced.
fn copy(file: &OpenFile, out: &mut dyn Write) -> Result<()> {
    let mut counted = Counted { out, count: 0 };
    file.copy_to(&mut counted)?;
    if counted.count == file.size() {
        return Ok(());
    }
    Err(Error::Other(format!("{} bytes came where the index says {}", counted.count, file.size())))
}

/// Counts what passes.
struct Counted<'a> {
    out: &'a mut dyn Write,
    count: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// An error with the path that it is about.
fn at(path: &[u8], error: &Error) -> Error {
    Error::Other(format!("{}: {error}", String::from_utf8_lossy(path)))
}

/// Writes bytes; a failure of the output is told as one.
fn put(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(output_failed)
}

fn output_failed(error: std::io::Error) -> Error {
    Error::io("the output failed", error)
}
