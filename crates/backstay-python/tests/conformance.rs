//! The conformance checklist of the reference (section 11), line by line: the test `item_NN_…` shows the behaviour of line
//! NN with a plugin and the real worker. What is not on the list is in `contract.rs`, `levels.rs` and `probes.rs`; numbers
//! that were measured with Bareos itself are in `measured.rs`; the other daemons' plugins, with their lines, in `hooks.rs`.
#![allow(clippy::unwrap_used)]

mod common;

#[path = "conformance/definition.rs"]
mod definition;

#[path = "conformance/module.rs"]
mod module;

#[path = "conformance/backup.rs"]
mod backup;

#[path = "conformance/direct.rs"]
mod direct;

#[path = "conformance/levels.rs"]
mod levels;

#[path = "conformance/restore.rs"]
mod restore;

#[path = "conformance/events.rs"]
mod events;

#[path = "conformance/helpers.rs"]
mod helpers;

#[path = "conformance/robustness.rs"]
mod robustness;

/// Lines of the checklist.
const LINES: u32 = 89;

#[test]
fn every_line_of_the_checklist_has_its_test_in_order() {
    let sources = [
        include_str!("conformance/definition.rs"),
        include_str!("conformance/module.rs"),
        include_str!("conformance/backup.rs"),
        include_str!("conformance/direct.rs"),
        include_str!("conformance/levels.rs"),
        include_str!("conformance/restore.rs"),
        include_str!("conformance/events.rs"),
        include_str!("conformance/helpers.rs"),
        include_str!("hooks.rs"),
        include_str!("conformance/robustness.rs"),
    ];
    let tests = sources.iter().flat_map(|source| source.split("#[test]\nfn item_").skip(1));
    let numbers: Vec<u32> = tests.map(|test| test[..2].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=LINES).collect::<Vec<u32>>());
}
