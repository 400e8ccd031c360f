//! A short run of every target: inputs of our own encoders, changed at random. `BACKSTAY_TEST_SEED` gives the same run again,
//! `BACKSTAY_FUZZ_ROUNDS` a longer one.
#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use backstay_fuzzing::mutate::{Random, mutate};
use backstay_fuzzing::{TARGETS, Target};

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn shown(data: &[u8]) -> String {
    data.escape_ascii().to_string()
}

fn drive(target: &Target, seed: u64, rounds: u64) {
    let mut random = Random::new(seed);
    let seeds = (target.corpus)();
    let mut inputs = seeds.clone();
    let check = |input: &[u8]| {
        let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
        assert!(result.is_ok(), "{} (seed {seed}) stumbles over b\"{}\"", target.name, shown(input));
    };
    seeds.iter().for_each(|input| check(input));
    for _ in 0..rounds {
        let mut input = inputs[random.below(inputs.len())].clone();
        let other = inputs[random.below(inputs.len())].clone();
        mutate(&mut input, &other, &mut random);
        input.truncate(1 << 16);
        check(&input);
        // Some of the changed ones are changed further.
        if inputs.len() < 64 {
            inputs.push(input);
        } else if random.below(8) == 0 {
            let at = seeds.len() + random.below(inputs.len() - seeds.len());
            inputs[at] = input;
        }
    }
}

#[test]
fn no_decoder_stumbles_over_changed_bytes() {
    let seed = variable("BACKSTAY_TEST_SEED", 1);
    let rounds = variable("BACKSTAY_FUZZ_ROUNDS", 20_000);
    for target in TARGETS {
        drive(target, seed, rounds);
    }
}

/// Whoever reaches the socket may send whatever they like: these run for a minute or so.
#[test]
fn what_network_block_clients_and_servers_send_is_changed_for_longer() {
    let seed = variable("BACKSTAY_TEST_SEED", 1);
    let rounds = variable("BACKSTAY_FUZZ_ROUNDS", 20_000) * 1000;
    let targets: Vec<&Target> = TARGETS.iter().filter(|target| target.name.starts_with("nbd_")).collect();
    assert_eq!(targets.len(), 3);
    std::thread::scope(|scope| {
        for target in targets {
            scope.spawn(move || drive(target, seed + 1, rounds));
        }
    });
}

#[test]
fn every_target_has_inputs_to_begin_with_and_a_program() {
    let programs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/Cargo.toml")).unwrap();
    for target in TARGETS {
        assert!(!(target.corpus)().is_empty(), "{}", target.name);
        assert!(programs.contains(&format!("name = \"{}\"", target.name)), "fuzz/Cargo.toml has no {}", target.name);
    }
}

/// The inputs to begin with mean something: a decoder that refused them all would be changed bytes from the start.
#[test]
fn the_first_inputs_are_what_our_encoders_write() {
    let corpus = |name: &str| (TARGETS.iter().find(|target| target.name == name).unwrap().corpus)();
    assert!(backstay_repository::Tree::decode(&corpus("tree")[1]).is_ok_and(|tree| tree.nodes.len() == 4));
    assert!(backstay_repository::pack::decode_header(&corpus("pack_header")[0]).is_ok_and(|blobs| blobs.len() == 2));
    assert!(backstay_repository::keyfile::open(&corpus("key_file")[0], b"password").is_ok());
    let ledger = [b"backstay ledger 1\n", &corpus("ledger")[0][..]].concat();
    let mut reader =
        backstay_engine::ledger::LedgerReader::read_from(Box::new(std::io::Cursor::new(ledger)), "source").unwrap();
    assert_eq!(reader.next_entry().unwrap().unwrap().entry.name, b"/etc/hosts");
    assert_eq!(reader.next_entry().unwrap(), None);
    let ledger = [b"backstay ledger 2\n", &corpus("ledger")[1][..]].concat();
    let mut reader =
        backstay_engine::ledger::LedgerReader::read_from(Box::new(std::io::Cursor::new(ledger)), "source").unwrap();
    assert_eq!(reader.objects().len(), 1);
    assert_eq!(reader.next_entry().unwrap().unwrap().entry.name, b"/etc/hosts");
    assert_eq!(reader.next_entry().unwrap(), None);
}
