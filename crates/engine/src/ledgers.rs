//! What ledgers name, for those who change snapshots: a ledger whose blobs go must go too. May use: core, repository.

use std::sync::Arc;

use backstay_core::Id;
use backstay_repository::error::Error;
use backstay_repository::maintenance::ledgers::Ledgers;
use backstay_repository::reader::Reader;

use crate::ledger::LedgerReader;

/// Reads the ledgers that this engine writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineLedgers;

impl Ledgers for EngineLedgers {
    fn blobs(&self, reader: &Arc<Reader>, root: &Id, source: &str, take: &mut dyn FnMut(Id)) -> Result<(), Error> {
        let mut ledger = LedgerReader::open(reader, root, source)?;
        while let Some(entry) = ledger.next_of_all()? {
            entry.content.into_iter().for_each(&mut *take);
        }
        Ok(())
    }
}
