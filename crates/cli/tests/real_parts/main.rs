//! End to end with real parts: the programs `backstay` and `backstay-python`, restic of two ages and rustic on the same
//! repositories, `kill -9`, full disks, very many and very long files, servers good and bad.
//!
//! `scripts/test` fetches the foreign readers and names them in `BACKSTAY_TEST_RESTIC`, `BACKSTAY_TEST_RESTIC_NEXT` and
//! `BACKSTAY_TEST_RUSTIC`; without these variables they are looked for where the script leaves them.
#![allow(clippy::unwrap_used)]

mod extremes;
mod forget_prune;
mod full_disk;
mod gpbackup_store;
mod hostile;
mod kill;
mod maintenance;
mod place;
mod plugins;
mod remote;
mod restic_reads;
mod restic_writes;
mod rustic_writes;
mod s3_plugin;
