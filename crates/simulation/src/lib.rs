//! Several writers at work on one repository, in an order that a seed chooses, with faults and kills at any call of the
//! store; a judge that compares the repository with what it must hold after each turn.
//!
//! The code under test is the real one: `engine::backup` with a source, the repository's reader, check and maintenance,
//! each operation on a repository that it opened for itself, as a process of its own does. Only the store is simulated:
//! objects in memory, seen through a `FaultStore` (`backstay_stores::faults`).
//!
//! # Turns
//! One operation works at a time. Where the seed says so it is held up in the middle of a call of the store, before or
//! after the work was done; then another one begins, goes on, or is killed where it stands. To be killed means that no
//! call of the store gets through any more. Up to three operations are under way at once, so a backup can load its index,
//! stand still while a forget and a prune run from beginning to end, and go on. A copy has a second repository to write
//! to; a process that is killed is gone from both.
//!
//! # The judge
//! After each turn, with a view of the store where nothing fails:
//! * invariant 1: every snapshot in the repository, reported or not, reads byte for byte as its source announced it;
//! * invariant 2: no snapshot vanished that nobody was allowed to delete (and with invariant 1: nothing that it needs);
//! * invariant 3: a backup's report, what its observer was told, and the source's own count say the same; the verdict is
//!   no better than that;
//! * an operation that nothing was done to does not fail, except on somebody else's lock; a check finds nothing;
//! * nobody removes the lock of a living process;
//! * what a rewrite, a merge or a copy made holds what follows from the snapshots that it was made of, ledger and all, and an
//!   old snapshot goes only when the new one is there; repairs of what is sound change no snapshot;
//! * whoever could open the repository still can, unless that key was removed or got another password.
//!
//! # What a seed decides
//! Everything that the log says: which operations, with which contents, in which order, who is held up, fails or is
//! killed at which call (the Nth of its verb and kind), and how it ends. The same seed gives the same log and digest, and
//! a test holds us to it. Not decided: ids and keys (they come from the system's randomness, so they differ in each run,
//! and nothing in the log depends on them), and times within an operation. Threads are kept out: repositories are opened
//! `in_turn`, so everything is done on the thread that asks for it and a lock settles at one place of its backup. A call
//! that is held up holds up all of its operation. Objects are listed in the order of writing.
//!
//! # Finding bugs
//! [`bugs`] has a bug for each invariant, in a wrapper around the store or the source; the tests show that each is found.

pub mod bugs;
pub mod client;
pub mod host;
pub mod model;
pub mod operations;
pub mod random;
pub mod world;

pub use bugs::Bug;
pub use world::{Failure, Options, Report, run};
