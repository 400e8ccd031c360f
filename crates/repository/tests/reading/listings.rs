//! Listings, differences, statistics and random access: what restic says about its own repository is what we say.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use backstay_core::{FileKind, Id};
use backstay_repository::diff::{Change, DiffOptions, diff};
use backstay_repository::find::{FindOptions, Objects, find, find_objects};
use backstay_repository::open_file::OpenFile;
use backstay_repository::pattern::Patterns;
use backstay_repository::stats::{StatsMode, stats};
use backstay_repository::walk::{ListedNode, walk};
use backstay_repository::{BlobKind, Error, Reader, Repository};
use backstay_stores::LocalStore;
use backstay_stores::faults::points::DURING_PACK_READ;
use backstay_stores::faults::{Fault, FaultStore};
use serde_json::Value;

use crate::fixture::{Fixture, PASSWORD, flip, name_of, noise, restic};

fn json_lines(fixture: &Fixture, arguments: &[&str]) -> Vec<Value> {
    let output = restic(&fixture.store(), arguments);
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter(|line| line.starts_with(['{', '[']))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_walk_lists_what_restic_lists() {
    let fixture = Fixture::new();
    let reader = fixture.reader();
    let ours: Vec<Value> = walk(&reader, &fixture.root(), true)
        .map(|entry| serde_json::to_value(ListedNode::from(&entry.unwrap())).unwrap())
        .collect();
    let theirs: Vec<Value> = json_lines(&fixture, &["ls", "--json", "latest"])
        .into_iter()
        .filter(|line| line["struct_type"] == "node")
        .collect();
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        for key in ["name", "type", "path", "uid", "gid", "size", "mode", "mtime"] {
            assert_eq!(ours.get(key), theirs.get(key), "{key} of {theirs}");
        }
    }
}

#[test]
fn a_damaged_directory_is_named_and_the_walk_goes_on() {
    let fixture = Fixture::new();
    let reader = fixture.reader();
    let mut path = fixture.subpath();
    path.extend_from_slice(b"/deep");
    let tree = reader.node_at(&fixture.root(), &path).unwrap().unwrap().subtree.unwrap();
    let location = reader.locate(BlobKind::Tree, &tree).unwrap();
    let pack = fixture.objects("data").into_iter().find(|file| name_of(file) == location.pack.to_hex()).unwrap();
    flip(&pack, u64::from(location.offset) + 20);
    // One that has not read the pack yet.
    let reader = fixture.reader();
    let (entries, errors): (Vec<_>, Vec<_>) = walk(&reader, &fixture.root(), true).partition(Result::is_ok);
    assert_eq!(errors.len(), 1);
    let error = errors.into_iter().next().unwrap().unwrap_err();
    assert_eq!(error.path, path);
    assert!(error.to_string().contains(&tree.to_hex()) && error.to_string().contains(&location.pack.to_hex()));
    assert!(entries.iter().any(|entry| entry.as_ref().unwrap().path.ends_with(b"/sparse")));
    assert!(matches!(reader.tree(&tree), Err(Error::DamagedBlob { .. })));
}

#[test]
fn files_are_read_at_any_place() {
    let fixture = Fixture::new();
    let reader = fixture.reader();
    let open = |name: &str| {
        let mut path = fixture.subpath();
        path.extend_from_slice(format!("/{name}").as_bytes());
        OpenFile::new(reader.clone(), &reader.node_at(&fixture.root(), &path).unwrap().unwrap())
    };
    for name in ["big", "sparse", "nothing", "labelled"] {
        let original = fs::File::open(fixture.source().join(name)).unwrap();
        let size = original.metadata().unwrap().len();
        let file = open(name).unwrap();
        assert_eq!(file.size(), size);
        let places = noise(400, 3)
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
            .collect::<Vec<_>>();
        for (number, place) in places.into_iter().enumerate() {
            let offset = place % (size + 10);
            let length = [1, 100, 4096, 3_000_000][number % 4];
            let mut ours = vec![0; length];
            let read = file.read_at(offset, &mut ours).unwrap();
            let expected = usize::try_from(size.saturating_sub(offset)).unwrap().min(length);
            assert_eq!(read, expected, "{name} at {offset}");
            let mut theirs = vec![0; expected];
            original.read_exact_at(&mut theirs, offset.min(size)).unwrap();
            assert!(ours[..read] == theirs[..], "{name} at {offset}");
        }
        let mut whole = Vec::new();
        file.copy_to(&mut whole).unwrap();
        assert_eq!(Id::of(&whole), Id::of(&fs::read(fixture.source().join(name)).unwrap()));
    }
    assert!(open("link").unwrap_err().to_string().contains("\"link\""));
}

#[test]
fn differences_are_those_that_restic_sees() {
    let fixture = Fixture::with_source();
    let before = fixture.root();
    let source = fixture.source();
    fs::write(source.join("added"), noise(100_000, 9)).unwrap();
    fs::create_dir_all(source.join("new/er")).unwrap();
    fs::write(source.join("new/er/file"), "x").unwrap();
    fs::remove_file(source.join("many/file 9")).unwrap();
    fs::remove_dir_all(source.join("sticky")).unwrap();
    fs::write(source.join("labelled"), "other contents").unwrap();
    fs::remove_file(source.join("dangling")).unwrap();
    fs::create_dir(source.join("dangling")).unwrap();
    fixture.backup("second");
    let reader = fixture.reader();
    let ids: Vec<String> = fixture.repository().snapshots().unwrap().iter().map(|(id, _)| id.to_hex()).collect();
    for metadata in [false, true] {
        let mut changes = Vec::new();
        let options = DiffOptions { metadata, skip_internal: true };
        let statistics = diff(&reader, &before, &fixture.root(), options, &mut |Change { path, modifier }| {
            changes.push(format!("{modifier:<4} {}", String::from_utf8(path).unwrap()));
        })
        .unwrap();
        let mut arguments = vec!["diff", "--json", &ids[0], &ids[1]];
        if metadata {
            arguments.push("--metadata");
        }
        let lines = json_lines(&fixture, &arguments);
        let theirs: BTreeSet<String> = lines
            .iter()
            .filter(|line| line["message_type"] == "change")
            .map(|line| format!("{:<4} {}", line["modifier"].as_str().unwrap(), line["path"].as_str().unwrap()))
            .collect();
        assert_eq!(changes.into_iter().collect::<BTreeSet<_>>(), theirs);
        let expected = lines.iter().find(|line| line["message_type"] == "statistics").unwrap();
        let ours = serde_json::to_value(statistics).unwrap();
        for key in ["changed_files", "added", "removed"] {
            assert_eq!(ours[key], expected[key], "{key}");
        }
    }
}

#[test]
fn statistics_are_those_of_restic() {
    let fixture = Fixture::with_source();
    fs::write(fixture.source().join("later"), noise(50_000, 4)).unwrap();
    fixture.backup("second");
    let reader = fixture.reader();
    let roots: Vec<Id> = fixture.repository().snapshots().unwrap().iter().map(|(_, snapshot)| snapshot.tree).collect();
    for (word, mode) in [
        ("restore-size", StatsMode::RestoreSize),
        ("files-by-contents", StatsMode::FilesByContents),
        ("blobs-per-file", StatsMode::BlobsPerFile),
        ("raw-data", StatsMode::RawData),
    ] {
        assert_eq!(word.parse::<StatsMode>().unwrap(), mode);
        let ours = serde_json::to_value(stats(&reader, &roots, mode, true).unwrap()).unwrap();
        let theirs = json_lines(&fixture, &["stats", "--json", "--mode", word]).pop().unwrap();
        for key in ["total_size", "total_file_count", "total_blob_count"] {
            let number = |value: &Value| value.get(key).and_then(Value::as_u64).unwrap_or(0);
            assert_eq!(number(&ours), number(&theirs), "{key} of {word}: {ours} {theirs}");
        }
    }
    assert!("nonsense".parse::<StatsMode>().is_err());
}

#[test]
fn files_are_found_by_name_time_and_blob() {
    let fixture = Fixture::new();
    let reader = fixture.reader();
    let found = |options: &FindOptions| {
        let mut paths = Vec::new();
        let errors = find(&reader, &fixture.root(), options, &mut |entry| {
            paths.push(String::from_utf8_lossy(&entry.path).rsplit('/').next().unwrap().to_owned());
        });
        assert!(errors.is_empty());
        paths
    };
    let named = |exact: &[&str], folded: &[&str]| FindOptions {
        patterns: Patterns::new(
            &exact.iter().map(ToString::to_string).collect::<Vec<_>>(),
            &folded.iter().map(ToString::to_string).collect::<Vec<_>>(),
        )
        .unwrap(),
        ..FindOptions::default()
    };
    assert_eq!(found(&named(&["file 1[0-2]"], &[])), ["file 10", "file 11", "file 12"]);
    assert_eq!(found(&named(&[], &["FILE 77"])), ["file 77"]);
    assert_eq!(found(&named(&["deep"], &[])), ["deep", "er", "still", "one", "nothing either"]);
    let mut old = named(&["*"], &[]);
    old.newest = Some(backstay_core::Time { seconds: 0, nanoseconds: 0 });
    assert_eq!(found(&old), ["labelled"]);

    let mut path = fixture.subpath();
    path.extend_from_slice(b"/labelled");
    let node = reader.node_at(&fixture.root(), &path).unwrap().unwrap();
    assert_eq!(node.kind, FileKind::File);
    let blob = node.content.unwrap()[0];
    let pack = reader.locate(BlobKind::Data, &blob).unwrap().pack;
    for add in [
        (&|objects: &mut Objects| objects.add_blob(&reader, &blob.to_hex()[..20])) as &dyn Fn(&mut Objects) -> _,
        &|objects| objects.add_pack(&reader, &pack.to_hex()[..20]),
    ] {
        let mut objects = Objects::default();
        add(&mut objects).unwrap();
        let mut hits = Vec::new();
        find_objects(&reader, &fixture.root(), &objects, &mut |hit| hits.push(hit));
        assert!(hits.iter().any(|hit| hit.id == blob && hit.path.ends_with("/labelled")));
    }
    let mut objects = Objects::default();
    assert!(objects.add_blob(&reader, "zz").is_err() && objects.add_pack(&reader, "zz").is_err());
    objects.add_tree(&reader, &fixture.root().to_hex()).unwrap();
    let mut hits = Vec::new();
    find_objects(&reader, &fixture.root(), &objects, &mut |hit| hits.push(hit.path));
    assert_eq!(hits, ["/"]);
}

#[test]
fn a_store_that_fails_is_told_in_its_own_words_and_nothing_is_called_damaged() {
    let fixture = Fixture::new();
    let open = || {
        let store = Arc::new(FaultStore::new(Arc::new(LocalStore::new(fixture.store()))));
        let repository = Arc::new(Repository::open(store.clone(), PASSWORD.as_bytes()).unwrap());
        let index = Arc::new(repository.load_index().unwrap());
        for number in 1..1000 {
            store.arm(DURING_PACK_READ, number, Fault::Fail);
        }
        Arc::new(Reader::new(repository, index))
    };
    let whole = fixture.reader();
    let mut path = fixture.subpath();
    path.extend_from_slice(b"/big");
    let big = whole.node_at(&fixture.root(), &path).unwrap().unwrap();
    let blob = big.content.unwrap()[0];
    for error in [
        open().tree(&fixture.root()).unwrap_err(),
        open().load(BlobKind::Data, &blob).unwrap_err(),
        open().node_at(&fixture.root(), &path).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Store(_)) && error.is_store_failure(), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("a planned failure") && !text.contains("damaged"), "{text}");
    }
    // A pack that is not there any more is damage all the same.
    let pack = whole.locate(BlobKind::Data, &blob).unwrap().pack;
    let file = fixture.objects("data").into_iter().find(|file| name_of(file) == pack.to_hex()).unwrap();
    fs::remove_file(file).unwrap();
    let error = fixture.reader().load(BlobKind::Data, &blob).unwrap_err();
    assert!(matches!(error, Error::DamagedBlob { .. }) && !error.is_store_failure(), "{error:?}");
}
