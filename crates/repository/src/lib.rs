//! The restic-format repository: writing, reading, restoring, checking, maintenance.
//!
//! Every repository that is written here is one that restic verifies and restores; what restic and rustic wrote is
//! read. Imports: core only; the store is whatever implements `backstay_core::Store`.
//!
//! # Who may be at work beside whom
//!
//! Hosts share a repository without a server between them: only the store, and the lock files in it. What keeps them from
//! hurting each other is in six rules. The table says which of them hold for each pair of operations, the list below it which
//! tests try to break each rule.
//!
//! |             | backup | read | check | prepare | commit | forget | change | keys | copy | repair |
//! | ---         | ---    | ---  | ---   | ---     | ---    | ---    | ---    | ---  | ---  | ---    |
//! | **backup**  | A      | O    | X O   | A O P   | X P    | X      | X      | X    | A    | X      |
//! | **read**    |        | N    | X     | A P     | X      | X      | X      | X    | O    | X      |
//! | **check**   |        |      | X     | X O     | X      | X      | X      | X    | X O  | X      |
//! | **prepare** |        |      |       | A P     | X P    | X P    | X P    | X    | A P  | X P    |
//! | **commit**  |        |      |       |         | X P    | X      | X      | X    | X P  | X      |
//! | **forget**  |        |      |       |         |        | X      | X      | X    | X    | X      |
//! | **change**  |        |      |       |         |        |        | X      | X    | X    | X      |
//! | **keys**    |        |      |       |         |        |        |        | X    | X    | X      |
//! | **copy**    |        |      |       |         |        |        |        |      | A    | X      |
//! | **repair**  |        |      |       |         |        |        |        |      |      | X      |
//!
//! *read* is restore, list, dump and everything else that only reads; *prepare* and *commit* are the two steps of a prune;
//! *change* is whatever takes snapshots away for new ones (tag, rewrite); *keys* removes a key or changes a password (one more
//! key is something added, as in a backup); *copy* is seen from the
//! repository that is copied into (the other one is read); *repair* is that of index, packs or snapshots. Where several rules
//! stand, all hold. Behind an X stands what is left if one of the two does not keep the locks: `--no-lock`, a lock that was
//! taken for stale, a program that knows no locks.
//!
//! **N, nothing is written.** Both only read.
//!
//! **A, both only add.** An object is named by its contents, written whole or not at all, and never changes. What two writers
//! store twice costs room until a prune.
//! - tests: `many_threads_may_write`, `a_second_run_stores_nothing_twice`,
//!   `of_two_prunes_that_prepared_at_once_both_may_commit`, `nothing_is_lost_whatever_fails_and_whoever_is_killed`
//!
//! **O, the order of writing and the order of looking.** Packs are written first, then the index files that list them, then
//! the snapshot that needs them. Whoever reads looks the other way round: snapshots, then index. So what a snapshot that was
//! seen needs is always found, and a writer that is killed anywhere has left nothing that anybody can see.
//! - tests: `a_snapshot_written_before_its_index_is_found`, `a_pack_that_was_only_promised_is_found`,
//!   `a_backup_that_ends_while_a_check_runs_is_not_taken_for_damage`,
//!   `a_backup_that_ends_while_a_prune_looks_around_is_not_taken_for_damage`,
//!   `a_backup_killed_at_any_moment_hurts_nothing`
//!
//! **X, exclusive lock.** One of the two holds restic's exclusive lock, the other a lock of its own; one of them waits or
//! gives up. Each writes its lock first and then looks for others, so of two that come at the same moment at most one goes
//! on. A lock that could not be refreshed in time is given up by its own holder before anybody may take it for stale, and the
//! holder asks before it writes a snapshot and before it deletes.
//! - tests: `shared_locks_go_together_and_exclusive_ones_with_nothing`,
//!   `a_lock_that_came_at_the_same_moment_makes_ours_give_way`, `a_lock_that_cannot_be_refreshed_is_lost`,
//!   `restic_and_we_respect_each_others_locks`, `locks_that_nobody_sees_are_found`
//!
//! **P, the plan is not believed.** A prune's commit lists snapshots and index files again, under the exclusive lock, and
//! deletes a pack only if every blob in it that is used now has another copy in a pack that stays. A backup makes sure, before
//! its snapshot, that the packs whose blobs it reused are still there.
//! - tests: `what_a_backup_reused_between_the_two_steps_stays`, `packs_of_a_backup_that_has_not_listed_them_yet_stay`,
//!   `a_prune_that_does_not_look_again_is_found`, `a_pack_that_vanishes_between_the_steps_stops_the_commit`,
//!   `a_reused_pack_that_vanished_is_noticed_before_the_snapshot`
//!
//! **K, killed anywhere.** It stands in no cell because it holds in all: new objects are stored before the index files that
//! list them, those before old index files go, those before packs go. What a dead process leaves behind is at worst too much.
//! - tests: `a_prune_that_dies_before_any_call_loses_nothing_and_the_next_one_finishes`,
//!   `a_prune_that_dies_after_any_call_loses_nothing_and_the_next_one_finishes`,
//!   `new_index_files_take_the_place_of_old_ones`, `nothing_is_lost_whatever_fails_and_whoever_is_killed`

pub mod archive;
pub mod assemble;
pub mod check;
pub mod chunker;
pub mod config;
pub mod container;
pub mod crypto;
pub mod diff;
pub mod error;
pub mod find;
pub mod gotext;
pub mod index;
pub mod index_cache;
pub mod keyfile;
pub mod lock;
pub mod maintenance;
pub mod open_file;
pub mod pack;
pub mod password;
pub mod pattern;
mod probe;
pub mod reader;
pub mod repository;
pub mod restore;
pub mod snapshot;
pub mod stats;
pub mod stream;
pub mod tree;
pub mod walk;
pub mod writer;

pub use assemble::Assembler;
pub use error::Error;
pub use index::{Index, Location};
pub use index_cache::IndexCache;
pub use lock::Lock;
pub use open_file::OpenFile;
pub use pack::{BlobKind, PackBlob};
pub use reader::Reader;
pub use repository::{InitOptions, OpenOptions, Repository};
pub use snapshot::{Snapshot, SnapshotFilter, SnapshotTime, Summary};
pub use tree::{Node, Tree};
pub use writer::{Compression, WriteOptions, WriteStats, Writer};
