//! Measures the index at a size that no test makes: writes the index files of a repository of many blobs (there are no
//! packs), opens it without and with the cache, and prints times and memory.
//!
//! `cargo run --release -p backstay-repository --example many_blobs -- FOLDER [BLOBS] [BLOBS PER PACK]`
#![allow(clippy::print_stdout, clippy::unwrap_used)] // a program for developers

use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use backstay_core::{Id, ObjectKind};
use backstay_repository::index::encode_index_file;
use backstay_repository::keyfile::KdfParams;
use backstay_repository::{BlobKind, IndexCache, InitOptions, OpenOptions, PackBlob, Repository};
use backstay_stores::LocalStore;

const PASSWORD: &[u8] = b"many blobs";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u32| arguments.get(at).map_or(default, |text| text.parse().unwrap());
    let folder = Path::new(arguments.first().expect("which folder?"));
    let (blobs, in_pack) = (number(1, 10_000_000), number(2, 25));
    if arguments.get(3).is_some_and(|word| word == "open") {
        return open(folder);
    }
    let place = folder.join("repository");
    if !place.exists() {
        let start = Instant::now();
        make(&place, blobs, in_pack);
        println!("written: {blobs} blobs, {in_pack} a pack, in {:.1} s", start.elapsed().as_secs_f64());
    }
    let _ = std::fs::remove_dir_all(folder.join("cache"));
    for what in ["cold, and the cache is made", "warm", "warm", "warm"] {
        println!("{what}:");
        // A process of its own: memory that another one of them gave back would not be counted.
        let again = std::env::current_exe().unwrap();
        let mut command = Command::new(again);
        command.arg(folder).args([blobs.to_string(), in_pack.to_string(), "open".to_owned()]);
        assert!(command.status().unwrap().success());
    }
    println!("one more index file in the store:");
    let store = Arc::new(LocalStore::new(&place));
    save(&Repository::open(store, PASSWORD).unwrap(), blobs, 50_000, in_pack);
    let mut command = Command::new(std::env::current_exe().unwrap());
    assert!(command.arg(folder).args(["0", "0", "open"]).status().unwrap().success());
}

fn blob_id(number: u32) -> Id {
    Id::of(&number.to_le_bytes())
}

fn make(place: &Path, blobs: u32, in_pack: u32) {
    let options = InitOptions { kdf: KdfParams { log_n: 4, r: 1, p: 1 }, ..InitOptions::default() };
    let repository = Repository::init(Arc::new(LocalStore::new(place)), PASSWORD, options).unwrap();
    for first in (0..blobs).step_by(50_000) {
        save(&repository, first, 50_000.min(blobs - first), in_pack);
    }
}

fn save(repository: &Repository, first: u32, count: u32, in_pack: u32) {
    let packs: Vec<_> = (first..first + count)
        .step_by(in_pack as usize)
        .map(|start| {
            let blobs = (start..(start + in_pack).min(first + count)).map(|number| PackBlob {
                id: blob_id(number),
                kind: BlobKind::Data,
                offset: (number - start) * 600_000,
                length: 400_000 + number % 200_000,
                uncompressed: NonZeroU32::new(1_000_000 + number % 300_000),
            });
            (Id::of(format!("pack {start}").as_bytes()), blobs.collect())
        })
        .collect();
    repository.save_unpacked(ObjectKind::Index, &encode_index_file(&packs)).unwrap();
}

/// Seconds of processor time that this process used, over all threads.
fn processor() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A line of /proc/self/status in MB.
fn memory(what: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
}

fn open(folder: &Path) {
    let cache = IndexCache::new(folder.join("cache")).telling(|text| println!("  cache: {text}"));
    let options = OpenOptions { cache: Some(cache), ..OpenOptions::default() };
    let store = Arc::new(LocalStore::new(folder.join("repository")));
    let repository = Repository::open_with(store, PASSWORD, &options).unwrap();
    let before = memory("VmRSS");
    let (start, used) = (Instant::now(), processor());
    let index = repository.load_index().unwrap();
    let (seconds, used) = (start.elapsed().as_secs_f64(), processor() - used);
    let (after, peak) = (memory("VmRSS"), memory("VmHWM"));
    let a_blob = |bytes: f64| bytes / index.len() as f64;
    println!(
        "  {seconds:.2} s, {used:.2} s of processor time; a blob: {:.1} bytes held, {:.1} resident, {:.1} at the peak",
        a_blob(index.memory() as f64),
        a_blob((after - before) * 1e6),
        a_blob((peak - before) * 1e6)
    );
    let start = Instant::now();
    let found = (0..1_000_000_u32).filter(|number| index.contains(BlobKind::Data, &blob_id(number * 7))).count();
    println!("  a million look-ups with their hashes: {:.2} s, {found} found", start.elapsed().as_secs_f64());
}
