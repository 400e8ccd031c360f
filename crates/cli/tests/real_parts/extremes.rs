//! Very many files, and a very long one with very little in it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::SeekFrom;

use crate::place::{Place, Restic, assert_same, below, count, noise};

#[test]
fn a_hundred_thousand_files_come_back() {
    let place = Place::with_repository();
    let tree = place.path("tree");
    for folder in 0..100 {
        let folder = tree.join(format!("folder {folder}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..1000_usize {
            let name = folder.join(format!("file {file}"));
            fs::write(
                &name,
                if file % 10 == 0 { Vec::new() } else { name.to_str().unwrap().repeat(1 + file % 5).into_bytes() },
            )
            .unwrap();
        }
    }
    let first = place.back_up([&tree]);
    assert_eq!(count(&first, "files_new"), 100_000, "{first}");
    let again = place.back_up([&tree]);
    assert_eq!(count(&again, "files_unmodified"), 100_000, "{again}");
    // Only the two trees that name the folder for temporary files and our place in it, which changed meanwhile.
    assert!(count(&again, "tree_blobs") <= 2, "{again}");
    place.assert_sound();
    assert_same(&tree, &below(&place.restore("latest", "restored"), &tree), &[]);
}

/// The spans of a file that hold data, as the file system tells them: (offset, bytes).
fn spans(path: &Path) -> Vec<(u64, Vec<u8>)> {
    let file = File::open(path).unwrap();
    let mut spans = Vec::new();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact_at(&mut bytes, start).unwrap();
        spans.push((start, bytes));
        at = end;
    }
    spans
}

/// What of a span is not zero: the file systems of two files may draw the borders of their holes differently.
fn without_zeros(spans: &[(u64, Vec<u8>)]) -> Vec<(u64, u8)> {
    let bytes = spans
        .iter()
        .flat_map(|(start, bytes)| bytes.iter().enumerate().map(move |(at, byte)| (start + at as u64, *byte)));
    bytes.filter(|(_, byte)| *byte != 0).collect()
}

#[test]
fn a_sparse_file_of_twenty_gibibytes_stays_small_on_both_sides() {
    const LENGTH: u64 = 20 << 30;
    let place = Place::with_repository();
    let tree = place.path("tree");
    fs::create_dir(&tree).unwrap();
    let path = tree.join("disk.img");
    let file = File::create(&path).unwrap();
    file.set_len(LENGTH).unwrap();
    for (index, at) in [0, 4096, 5 << 30, (7 << 30) + 12345, LENGTH - 100].into_iter().enumerate() {
        file.write_all_at(&noise(index as u64, 100), at).unwrap();
    }
    file.write_all_at(&noise(77, 3 << 20), 6 << 30).unwrap();
    let saved = place.back_up([&tree]);
    assert_eq!(count(&saved, "total_bytes_processed"), LENGTH, "{saved}");
    // Five islands of two blocks at the most, one of 3 MiB, and the one blob of zeros: no hole was stored twice.
    assert!(count(&saved, "data_blobs") <= 24, "{saved}");
    assert!(place.stored() < 8 << 20, "{} bytes are stored", place.stored());
    place.restic(Restic::Old, ["check", "--read-data"]);

    let restored = below(&place.restore("latest", "restored"), &path);
    let metadata = fs::metadata(&restored).unwrap();
    assert_eq!(metadata.len(), LENGTH);
    assert!(metadata.blocks() * 512 < 64 << 20, "{} bytes are allocated", metadata.blocks() * 512);
    assert!(without_zeros(&spans(&path)) == without_zeros(&spans(&restored)));
}
