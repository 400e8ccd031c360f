//! What earlier jobs left, on its way to the worker: the names that the reference job has with what is known of each, and
//! the restore objects. Written once by the host into memory that is then sealed, and looked up where it lies: with a
//! million files a look-up costs no message and no copy.
//!
//! Layout: records (a 32-bit length of the name, the name, a 32-bit length, a [`KnownFile`] in postcard); the table, one
//! pair of 64-bit numbers (hash of the name, place of the record) for each, sorted; the objects in postcard; then four
//! 64-bit numbers: bytes of the records, pairs of the table, bytes of the objects, [`MARK`]. All numbers little-endian.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::StatFields;

/// Stands at the end.
const MARK: u64 = 0x726f_6972_7073_6b62;
/// Bytes of the numbers at the end.
const TRAILER: usize = 32;

/// A file that the reference job has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownFile {
    /// Its StatPacket.
    pub stat: StatFields,
    /// Its delta_seq.
    pub delta_sequence: u32,
}

/// A restore object on its way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreObject {
    /// The definition of the plugin line that made it.
    pub definition: String,
    /// FT_RESTORE_FIRST or FT_PLUGIN_CONFIG.
    pub object_type: i32,
    /// object_index.
    pub object_index: i32,
    /// object_name.
    pub object_name: String,
    /// The object.
    #[serde(with = "crate::bytes")]
    pub object: Vec<u8>,
    /// Number of the job that made it.
    pub job_id: u32,
}

/// Writes it.
#[derive(Debug)]
pub struct PriorWriter<W> {
    out: W,
    table: Vec<(u64, u64)>,
    length: u64,
}

impl<W: Write> PriorWriter<W> {
    /// Begins.
    pub fn new(out: W) -> Self {
        Self { out, table: Vec::new(), length: 0 }
    }

    /// Adds a file. Of two with one name the later one counts.
    ///
    /// # Errors
    /// What writing fails with; `InvalidInput` for a name of 4 GiB or more.
    pub fn file(&mut self, name: &[u8], file: &KnownFile) -> io::Result<()> {
        let record = postcard::to_stdvec(file).map_err(io::Error::other)?;
        self.table.push((hash(name), self.length));
        for part in [name, &record] {
            let length = u32::try_from(part.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            self.out.write_all(&length.to_le_bytes())?;
            self.out.write_all(part)?;
            self.length += 4 + part.len() as u64;
        }
        Ok(())
    }

    /// Ends with the objects, which come back in this order.
    ///
    /// # Errors
    /// What writing fails with.
    pub fn finish(mut self, objects: &[RestoreObject]) -> io::Result<W> {
        self.table.sort_unstable();
        for (hash, place) in &self.table {
            self.out.write_all(&hash.to_le_bytes())?;
            self.out.write_all(&place.to_le_bytes())?;
        }
        let objects = postcard::to_stdvec(objects).map_err(io::Error::other)?;
        self.out.write_all(&objects)?;
        for number in [self.length, self.table.len() as u64, objects.len() as u64, MARK] {
            self.out.write_all(&number.to_le_bytes())?;
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

/// What lies where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prior {
    records: usize,
    pairs: usize,
    objects: usize,
}

impl Prior {
    /// Looks at the end of `bytes`; none if they are not what the writer makes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let trailer = bytes.len().checked_sub(TRAILER)?;
        let number = |at: usize| -> Option<usize> { usize::try_from(word(bytes, trailer + 8 * at)?).ok() };
        let (records, pairs, objects) = (number(0)?, number(1)?, number(2)?);
        let whole = pairs.checked_mul(16)?.checked_add(records)?.checked_add(objects)?;
        (word(bytes, trailer + 24)? == MARK && whole == trailer).then_some(Self { records, pairs, objects })
    }

    /// How many records there are: the numbers that [`Prior::find`] gives are smaller.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs == 0
    }

    /// The file of that name, and its number.
    #[must_use]
    pub fn find(&self, bytes: &[u8], name: &[u8]) -> Option<(usize, KnownFile)> {
        let wanted = hash(name);
        let (mut low, mut high) = (0, self.pairs);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.pair(bytes, middle)?.0 < wanted { low = middle + 1 } else { high = middle }
        }
        let mut found = None;
        while low < self.pairs {
            let (hash, place) = self.pair(bytes, low)?;
            if hash != wanted {
                break;
            }
            let (have, file) = self.record(bytes, place)?;
            if have == name {
                found = Some((low, file));
            }
            low += 1;
        }
        found
    }

    /// The numbers of all names, each once, in the order in which they were added last.
    #[must_use]
    pub fn current(&self, bytes: &[u8]) -> Vec<usize> {
        let mut places = Vec::with_capacity(self.pairs);
        for number in 0..self.pairs {
            let Some((hash, place)) = self.pair(bytes, number) else { continue };
            // Only where two names have one hash is there anything to compare.
            let again = (number + 1..self.pairs)
                .map_while(|next| self.pair(bytes, next).filter(|(other, _)| *other == hash))
                .any(|(_, other)| self.name_at(bytes, other) == self.name_at(bytes, place));
            if !again {
                places.push((place, number));
            }
        }
        places.sort_unstable();
        places.into_iter().map(|(_, number)| number).collect()
    }

    /// The name with that number.
    #[must_use]
    pub fn name<'a>(&self, bytes: &'a [u8], number: usize) -> Option<&'a [u8]> {
        self.name_at(bytes, self.pair(bytes, number)?.1)
    }

    /// The objects, in order.
    #[must_use]
    pub fn objects(&self, bytes: &[u8]) -> Option<Vec<RestoreObject>> {
        let start = self.records + 16 * self.pairs;
        postcard::from_bytes(bytes.get(start..start + self.objects)?).ok()
    }

    fn pair(&self, bytes: &[u8], number: usize) -> Option<(u64, u64)> {
        let at = self.records + 16 * number;
        Some((word(bytes, at)?, word(bytes, at + 8)?))
    }

    fn name_at<'a>(&self, bytes: &'a [u8], place: u64) -> Option<&'a [u8]> {
        Some(self.part(bytes, usize::try_from(place).ok()?)?.0)
    }

    fn record<'a>(&self, bytes: &'a [u8], place: u64) -> Option<(&'a [u8], KnownFile)> {
        let (name, after) = self.part(bytes, usize::try_from(place).ok()?)?;
        let (file, _) = self.part(bytes, after)?;
        Some((name, postcard::from_bytes(file).ok()?))
    }

    /// The part at a place of the records, and where it ends.
    fn part<'a>(&self, bytes: &'a [u8], at: usize) -> Option<(&'a [u8], usize)> {
        let records = bytes.get(..self.records)?;
        let length = u32::from_le_bytes(*records.get(at..)?.first_chunk()?) as usize;
        let start = at + 4;
        Some((records.get(start..start.checked_add(length)?)?, start + length))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// FNV-1a.
fn hash(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> KnownFile {
        KnownFile { stat: StatFields { size, mtime: -5, ..StatFields::default() }, delta_sequence: 3 }
    }

    #[test]
    fn every_name_is_found_with_what_was_said_last() {
        let mut writer = PriorWriter::new(Vec::new());
        for number in 0..1000_u64 {
            writer.file(format!("/file {number}").as_bytes(), &file(number)).unwrap();
        }
        writer.file(b"/file 7", &file(7000)).unwrap();
        let object = RestoreObject {
            definition: "python3:module_name=m".to_owned(),
            object_type: 25,
            object_index: -1,
            object_name: "o".to_owned(),
            object: vec![0, 255],
            job_id: 9,
        };
        let bytes = writer.finish(std::slice::from_ref(&object)).unwrap();
        let prior = Prior::new(&bytes).unwrap();
        assert_eq!((prior.len(), prior.is_empty()), (1001, false));
        for number in 0..1000_u64 {
            let (_, found) = prior.find(&bytes, format!("/file {number}").as_bytes()).unwrap();
            assert_eq!(found, file(if number == 7 { 7000 } else { number }));
        }
        assert_eq!(prior.find(&bytes, b"/file"), None);
        let current = prior.current(&bytes);
        assert_eq!(current.len(), 1000);
        assert_eq!(prior.name(&bytes, current[0]).unwrap(), b"/file 0");
        assert_eq!(prior.name(&bytes, current[999]).unwrap(), b"/file 7");
        let (number, _) = prior.find(&bytes, b"/file 7").unwrap();
        assert_eq!(current[999], number, "numbers are those of the look-up");
        assert_eq!(prior.objects(&bytes).unwrap(), [object]);
    }

    #[test]
    fn nothing_is_something_too() {
        let bytes = PriorWriter::new(Vec::new()).finish(&[]).unwrap();
        let prior = Prior::new(&bytes).unwrap();
        assert!(prior.is_empty() && prior.find(&bytes, b"x").is_none() && prior.current(&bytes).is_empty());
        assert_eq!(prior.objects(&bytes).unwrap(), []);
    }

    #[test]
    fn other_bytes_are_refused_or_hold_nothing() {
        assert_eq!(Prior::new(b""), None);
        let mut writer = PriorWriter::new(Vec::new());
        writer.file(b"/a", &file(1)).unwrap();
        let bytes = writer.finish(&[]).unwrap();
        for cut in 0..bytes.len() {
            assert_eq!(Prior::new(&bytes[..cut]), None, "{cut}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x41;
            if let Some(prior) = Prior::new(&bytes) {
                let _ =
                    (prior.find(&bytes, b"/a"), prior.current(&bytes), prior.objects(&bytes), prior.name(&bytes, 0));
            }
        }
    }
}
