//! Copying what is used out of packs that go.
//!
//! Every blob is opened, decompressed and compared with its id before its copy counts. Its envelope is then taken over byte
//! for byte: the key is the same, an envelope does not depend on its place, and a second encryption would cost time and add
//! nothing. Blobs that have to be compressed are sealed anew.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;

use backstay_core::{Id, ObjectKind};
use parking_lot::Mutex;

use super::plan::{Plan, has_copies};
use crate::error::Error;
use crate::index::{Index, Location};
use crate::maintenance::replace_index::write_index;
use crate::maintenance::{MaintenanceProgress, for_each};
use crate::pack::{BlobKind, PackBlob, encode_header};
use crate::reader::{Reader, Result, blob_error, decode_blob};

/// Blobs in one pack at the most, as the write path has it.
const MAX_BLOBS_PER_PACK: usize = 10_000;
/// The copies are listed after so many blobs: what a killed run copied until then need not be copied again.
const BLOBS_PER_INDEX: usize = 50_000;
/// Unused bytes between two blobs that are read along rather than left out by a second request.
const READ_ALONG: u32 = 256 << 10;
/// Bytes that are read at once.
const READ_AT_ONCE: u32 = 8 << 20;

#[derive(Default)]
struct OpenPack {
    bytes: Vec<u8>,
    blobs: Vec<PackBlob>,
}

#[derive(Default)]
struct Copies {
    open: [OpenPack; 2],
    /// Full packs that no index file lists yet.
    waiting: Vec<(Id, Vec<PackBlob>)>,
    waiting_blobs: usize,
    /// Index files that were written.
    files: Vec<Id>,
    bytes: u64,
}

/// What several threads share while they copy.
struct Copying<'a> {
    plan: &'a Plan,
    reader: &'a Reader,
    copies: Mutex<Copies>,
}

impl Plan {
    /// Copies what is used in the packs that are to be repacked into new packs, and lists those in new index files. The
    /// caller holds a shared lock at least. Nothing is deleted, and what is used stays where it is until the commit.
    ///
    /// # Errors
    /// A blob that is needed and damaged, with no good copy elsewhere; [`Error::Store`], as a store that is full. The
    /// repository is as sound as before then.
    pub fn copy(&mut self, progress: &dyn MaintenanceProgress) -> Result<()> {
        if self.repack.is_empty() {
            return Ok(());
        }
        progress.stage("packs to copy", self.repack.len() as u64);
        let index = Arc::new(std::mem::take(&mut self.state.index));
        let reader = Reader::new(Arc::clone(&self.repository), Arc::clone(&index));
        let copying = Copying { plan: self, reader: &reader, copies: Mutex::default() };
        let threads = self.repository.store().calls_at_once().clamp(1, 8);
        let result = for_each(&self.repack, threads, progress, |pack| copying.pack(&index, pack))
            .and_then(|()| copying.finish());
        let bytes = copying.copies.into_inner().bytes;
        drop(reader);
        self.report.copied_bytes = bytes;
        self.state.index =
            Arc::into_inner(index).ok_or_else(|| Error::Other("the index is still in use".to_owned()))?;
        result
    }

    /// Whether the used blob's copy in this pack is the one that stays.
    fn is_home(&self, index: &Index, blob: &PackBlob, pack: &Id) -> bool {
        self.used.contains(blob.kind, &blob.id)
            && (!has_copies(index, blob.kind, &blob.id) || self.homes.get(&(blob.kind, blob.id)) == Some(pack))
    }
}

impl Copying<'_> {
    /// Copies what is used in one pack.
    fn pack(&self, index: &Index, pack: &Id) -> Result<()> {
        let mut seen = HashSet::new();
        let mut blobs = index.pack_blobs(pack);
        // The same blob may stand in a pack twice.
        blobs.retain(|blob| self.plan.is_home(index, blob, pack) && seen.insert((blob.kind, blob.id)));
        let (mut scratch, mut plain) = (Vec::new(), Vec::new());
        let mut rest = &blobs[..];
        while let Some(first) = rest.first() {
            let mut end = first.offset.saturating_add(first.length);
            let mut count = 1;
            while let Some(next) = rest.get(count) {
                let next_end = next.offset.saturating_add(next.length);
                if next.offset < end || next.offset - end > READ_ALONG || next_end - first.offset > READ_AT_ONCE {
                    break;
                }
                end = next_end;
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            rest = later;
            let range = u64::from(first.offset)..u64::from(end);
            let store = self.plan.repository.store();
            let bytes = store.get(ObjectKind::Pack, pack, Some(range))?;
            for blob in now {
                let start = (blob.offset - first.offset) as usize;
                let envelope = bytes.get(start..start + blob.length as usize).unwrap_or_default();
                let key = self.plan.repository.key();
                let decoded = decode_blob(key, envelope, blob.uncompressed, &blob.id, &mut scratch, &mut plain);
                match decoded {
                    Ok(()) if !self.compresses(blob) => self.add(blob.kind, &blob.id, envelope, blob.uncompressed)?,
                    Ok(()) => self.add_plain(blob.kind, &blob.id, &plain)?,
                    Err(reason) => {
                        // Another copy of it may be whole.
                        let PackBlob { kind, id, offset, length, uncompressed } = *blob;
                        let location = Location { pack: *pack, offset, length, uncompressed };
                        let plain = self.reader.load(kind, &id).map_err(|error| match error {
                            Error::Store(_) => error,
                            _ => blob_error(kind, &id, &location, reason),
                        })?;
                        self.add_plain(kind, &id, &plain)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn compresses(&self, blob: &PackBlob) -> bool {
        blob.uncompressed.is_none() && (blob.kind == BlobKind::Tree || self.plan.options.repack_uncompressed)
    }

    /// Compresses and seals a blob.
    fn add_plain(&self, kind: BlobKind, id: &Id, plain: &[u8]) -> Result<()> {
        let compressed = zstd::bulk::compress(plain, self.plan.options.compression_level)
            .map_err(|error| Error::io("zstd could not compress a blob", error))?;
        let length = u32::try_from(plain.len()).ok().and_then(NonZeroU32::new);
        // A length of zero would mean that the blob is not compressed.
        let body = if length.is_some() { &compressed[..] } else { plain };
        self.add(kind, id, &self.plan.repository.key().seal(body), length)
    }

    fn add(&self, kind: BlobKind, id: &Id, envelope: &[u8], uncompressed: Option<NonZeroU32>) -> Result<()> {
        let too_long = |_| Error::Other("a pack of 4 GiB or more cannot be stored".to_owned());
        let length = u32::try_from(envelope.len()).map_err(too_long)?;
        let full = {
            let mut copies = self.copies.lock();
            copies.bytes += u64::from(length);
            let open = &mut copies.open[usize::from(kind == BlobKind::Tree)];
            let offset = u32::try_from(open.bytes.len()).map_err(too_long)?;
            open.bytes.extend_from_slice(envelope);
            open.blobs.push(PackBlob { id: *id, kind, offset, length, uncompressed });
            let full = open.bytes.len() >= self.plan.options.pack_size || open.blobs.len() >= MAX_BLOBS_PER_PACK;
            full.then(|| std::mem::take(open))
        };
        full.map_or(Ok(()), |pack| self.store(pack))
    }

    fn store(&self, pack: OpenPack) -> Result<()> {
        let OpenPack { mut bytes, blobs } = pack;
        let start = bytes.len();
        let repository = &self.plan.repository;
        repository.key().seal_into(&encode_header(&blobs), &mut bytes);
        let header = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&header.to_le_bytes());
        let id = Id::of(&bytes);
        repository.store().put(ObjectKind::Pack, &id, &bytes)?;
        let full = {
            let mut copies = self.copies.lock();
            copies.waiting_blobs += blobs.len();
            copies.waiting.push((id, blobs));
            if copies.waiting_blobs < BLOBS_PER_INDEX {
                return Ok(());
            }
            copies.waiting_blobs = 0;
            std::mem::take(&mut copies.waiting)
        };
        self.list(full)
    }

    fn list(&self, packs: Vec<(Id, Vec<PackBlob>)>) -> Result<()> {
        let files = write_index(&self.plan.repository, packs)?;
        self.copies.lock().files.extend(files);
        Ok(())
    }

    /// Stores what is still open.
    fn finish(&self) -> Result<()> {
        for number in 0..2 {
            let pack = std::mem::take(&mut self.copies.lock().open[number]);
            if !pack.blobs.is_empty() {
                self.store(pack)?;
            }
        }
        let rest = std::mem::take(&mut self.copies.lock().waiting);
        self.list(rest)
    }
}
