//! The table of pairs in the crate's documentation: it is whole, its rules are explained, and the tests that it names exist.
#![allow(clippy::unwrap_used)] // the lint's own exception for tests leaves out their helpers

use std::collections::BTreeSet;
use std::path::Path;

fn documentation() -> String {
    let text = include_str!("../src/lib.rs");
    text.lines().map_while(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join("\n")
}

fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
            found.extend(names.map(ToOwned::to_owned));
        }
    }
}

/// Names in backticks after "tests:", up to the next empty line.
fn named_tests(documentation: &str) -> Vec<String> {
    let lists = documentation.split("- tests:").skip(1).filter_map(|rest| rest.split("\n\n").next());
    lists.flat_map(|list| list.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn every_test_that_the_safety_table_names_exists() {
    let named = named_tests(&documentation());
    assert!(named.len() >= 20, "{named:?}");
    let mut there = BTreeSet::new();
    functions(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut there);
    for name in named {
        assert!(there.contains(&name), "the table names {name}, and there is no such test");
    }
}

#[test]
fn the_safety_table_has_every_pair_and_explains_every_rule() {
    let documentation = documentation();
    let rows: Vec<Vec<&str>> = documentation
        .lines()
        .filter(|line| line.starts_with(" |") && !line.contains("---"))
        .map(|line| line.trim().trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let columns = &rows[0][1..];
    assert_eq!(rows.len(), columns.len() + 1);
    for (number, row) in rows[1..].iter().enumerate() {
        assert_eq!(row[0].trim_matches('*'), columns[number]);
        for (column, cell) in row[1..].iter().enumerate() {
            assert_eq!(cell.is_empty(), column < number, "{} beside {}", row[0], columns[column]);
            for rule in cell.split_whitespace() {
                assert!(documentation.contains(&format!("**{rule}, ")), "rule {rule} is not explained");
            }
        }
    }
}
