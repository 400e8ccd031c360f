//! The view without a kernel: what a mount shows, on every machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstay_core::{FileKind, Id, ObjectKind, Store, Time};
use backstay_mount::view::{OpenFolder, ROOT};
use backstay_mount::{Layout, View, ViewError, ViewOptions};
use backstay_repository::snapshot::{Snapshot, SnapshotFilter};
use backstay_repository::{InitOptions, Node, Repository, WriteOptions, Writer};
use backstay_stores::LocalStore;

/// A repository of its own, and what the view complained about.
struct World {
    repository: Arc<Repository>,
    told: Arc<Mutex<Vec<(String, String)>>>,
    home: tempfile::TempDir,
}

fn file(name: &str, content: &[Id], size: u64) -> Node {
    Node {
        name: name.into(),
        mode: 0o640,
        uid: 7,
        gid: 8,
        links: 1,
        size,
        mtime: Time { seconds: 100, nanoseconds: 5 },
        content: Some(content.to_vec()),
        ..Node::new(FileKind::File)
    }
}

fn folder(name: &str, tree: Id) -> Node {
    Node { name: name.into(), mode: 1 << 31 | 0o755, subtree: Some(tree), ..Node::new(FileKind::Directory) }
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(LocalStore::new(home.path().join("repository")));
        let options = InitOptions {
            kdf: backstay_repository::keyfile::KdfParams { log_n: 10, r: 1, p: 1 },
            ..InitOptions::default()
        };
        let repository = Arc::new(Repository::init(store, b"password", options).unwrap());
        Self { repository, told: Arc::default(), home }
    }

    /// Saves what `make` writes as a snapshot.
    fn save(&self, seconds: i64, tags: &[&str], make: impl FnOnce(&Arc<Writer>) -> Vec<Node>) -> Id {
        let index = Arc::new(self.repository.load_index().unwrap());
        let writer = Writer::new(Arc::clone(&self.repository), index, WriteOptions::default()).unwrap();
        let nodes = make(&writer);
        let tree = writer.save_tree(&nodes).unwrap();
        writer.finish().unwrap();
        let snapshot = Snapshot {
            time: Time { seconds, nanoseconds: 0 }.into(),
            tree,
            hostname: "host".to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..Snapshot::default()
        };
        self.repository.save_snapshot(&snapshot).unwrap()
    }

    fn view(&self, options: ViewOptions) -> View {
        let told = Arc::clone(&self.told);
        let log =
            Box::new(move |path: &str, message: &str| told.lock().unwrap().push((path.to_owned(), message.to_owned())));
        View::new(Arc::clone(&self.repository), options, log).unwrap()
    }

    fn told(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

fn data(writer: &Arc<Writer>, bytes: &[u8]) -> Id {
    writer.save(backstay_repository::BlobKind::Data, bytes).unwrap()
}

/// The inode at a path, held.
fn walk(view: &View, path: &str) -> u64 {
    path.split('/')
        .filter(|name| !name.is_empty())
        .fold(ROOT, |inode, name| view.look_up(inode, name.as_bytes()).unwrap().inode)
}

fn names(view: &View, folder: &OpenFolder) -> Vec<String> {
    (0..folder.len()).map(|at| String::from_utf8_lossy(folder.entry(view, at).unwrap().name).into_owned()).collect()
}

fn list(view: &View, path: &str) -> Vec<String> {
    let folder = view.open_folder(walk(view, path)).unwrap();
    names(view, &folder)
}

#[test]
fn a_snapshot_is_reached_by_time_id_host_and_tag_and_its_files_are_what_was_saved() {
    let world = World::new();
    let id = world.save(1000, &["t"], |writer| {
        let inner = writer.save_tree(&[file("deep", &[data(writer, b"abc"), data(writer, b"defg")], 7)]).unwrap();
        vec![
            folder("dir", inner),
            Node {
                link_target: b"dir/\xff".to_vec(),
                links: 1,
                ..Node { name: b"link".to_vec(), ..Node::new(FileKind::Symlink) }
            },
            Node {
                name: b"null".to_vec(),
                device: 0x103,
                mode: 1 << 26 | 1 << 21 | 0o666,
                ..Node::new(FileKind::CharDevice)
            },
        ]
    });
    let view = world.view(ViewOptions::default());
    assert_eq!(list(&view, "/"), ["hosts", "ids", "snapshots", "tags"]);
    assert_eq!(list(&view, "/tags/t"), ["1970-01-01T00:16:40Z", "latest"]);
    for place in ["snapshots/1970-01-01T00:16:40Z", &format!("ids/{}", id.short()), "hosts/host/1970-01-01T00:16:40Z"] {
        let deep = walk(&view, &format!("{place}/dir/deep"));
        let found = view.attributes(deep).unwrap();
        assert_eq!((found.kind, found.mode, found.uid, found.gid), (FileKind::File, 0o640, 7, 8));
        assert_eq!((found.size, found.blocks, found.links), (7, 1, 1));
        assert_eq!(found.mtime, Time { seconds: 100, nanoseconds: 5 });
        let open = view.open_file(deep).unwrap();
        assert_eq!(view.read(&open, 0, 100).unwrap(), b"abcdefg");
        assert_eq!(view.read(&open, 2, 3).unwrap(), b"cde");
        assert_eq!(view.read(&open, 7, 3).unwrap(), b"");
        assert_eq!(view.read_link(walk(&view, &format!("{place}/link"))).unwrap(), b"dir/\xff");
        assert_eq!(view.attributes(walk(&view, &format!("{place}/null"))).unwrap().device, 0x103);
    }
    assert_eq!(view.read_link(walk(&view, "snapshots/latest")).unwrap(), b"1970-01-01T00:16:40Z");
    assert_eq!(view.look_up(ROOT, b"missing"), Err(ViewError::NotFound));
    let deep = walk(&view, &format!("ids/{}/dir/deep", id.short()));
    assert_eq!(view.look_up(deep, b"x"), Err(ViewError::NotAFolder));
    assert_eq!(view.open_folder(deep).unwrap_err(), ViewError::NotAFolder);
    assert_eq!(view.open_file(walk(&view, "ids")).unwrap_err(), ViewError::IsAFolder);
    assert_eq!(world.told(), []);
}

#[test]
fn numbers_are_stable_hard_links_share_one_and_what_is_forgotten_takes_no_room() {
    let world = World::new();
    let id = world.save(1000, &[], |writer| {
        let content = [data(writer, b"shared")];
        let linked = |name: &str| Node { inode: 77, device_id: 3, links: 2, ..file(name, &content, 6) };
        let inner = writer.save_tree(&[linked("two")]).unwrap();
        let other = Node { inode: 77, device_id: 3, links: 2, ..file("other", &[data(writer, b"other!")], 6) };
        vec![folder("dir", inner), linked("one"), other]
    });
    let view = world.view(ViewOptions::default());
    let place = format!("ids/{}", id.short());
    let before = view.held();
    let number = |path: &str| walk(&view, &format!("{place}/{path}"));
    let (one, two, other) = (number("one"), number("dir/two"), number("other"));
    assert_eq!(one, two, "names of one file");
    assert_ne!(one, other, "another file that came with the same number");
    let root = view.open_folder(walk(&view, &place)).unwrap();
    let listed: BTreeMap<String, u64> = (0..root.len())
        .map(|at| root.entry(&view, at).unwrap())
        .map(|entry| (String::from_utf8_lossy(entry.name).into_owned(), entry.inode))
        .collect();
    assert_eq!((listed["one"], listed["dir"]), (one, number("dir")));
    // Forget everything, more often than it was held.
    for inode in [one, other, number("dir"), walk(&view, &place), walk(&view, "ids")] {
        view.forget(inode, 1000);
    }
    assert_eq!(view.held(), before);
    assert_eq!(view.attributes(one), Err(ViewError::NotFound));
    assert_eq!(number("one"), one, "the same number when it comes again");
    assert_ne!(walk(&view, "hosts/host/1970-01-01T00:16:40Z/one"), one, "another place is another file");
}

#[test]
fn a_hundred_thousand_names_are_listed_and_each_found() {
    let world = World::new();
    let count = 100_000;
    let id = world.save(1000, &[], |_| (0..count).map(|number| file(&format!("{number:06}"), &[], 0)).collect());
    let view = world.view(ViewOptions::default());
    let inode = walk(&view, &format!("ids/{}", id.short()));
    let open = view.open_folder(inode).unwrap();
    assert_eq!(open.len(), count);
    let held = view.held();
    for at in 0..count {
        let found = view.hold_entry(&open, at).unwrap();
        let entry = open.entry(&view, at).unwrap();
        assert_eq!(entry.name, format!("{at:06}").as_bytes());
        assert_eq!((found.inode, found.kind), (entry.inode, FileKind::File));
        if at % 1000 == 0 {
            assert_eq!(view.look_up(inode, entry.name).unwrap().inode, entry.inode);
            view.forget(entry.inode, 1);
        }
        view.forget(entry.inode, 1);
    }
    assert_eq!(view.held(), held);
    assert!(open.entry(&view, count).is_none());
}

#[test]
fn new_snapshots_appear_with_what_they_need_and_old_ones_go() {
    let world = World::new();
    let options = || ViewOptions { refresh: Duration::from_secs(3600), ..ViewOptions::default() };
    let view = world.view(options());
    let first = world.save(1000, &["a"], |writer| vec![file("f", &[data(writer, b"first")], 5)]);
    assert!(list(&view, "ids").is_empty(), "the list is not that old yet");
    assert!(view.refresh().unwrap());
    assert!(!view.refresh().unwrap(), "nothing changed since");
    let inode = walk(&view, &format!("ids/{}/f", first.short()));
    let open = view.open_file(inode).unwrap();
    let second = world.save(2000, &["b"], |writer| vec![file("f", &[data(writer, b"second")], 6)]);
    assert!(view.refresh().unwrap());
    let newer = view.open_file(walk(&view, &format!("ids/{}/f", second.short()))).unwrap();
    assert_eq!(view.read(&newer, 0, 10).unwrap(), b"second");
    assert_eq!(view.read(&open, 0, 10).unwrap(), b"first");
    assert_eq!(view.read_link(walk(&view, "snapshots/latest")).unwrap(), b"1970-01-01T00:33:20Z");
    // A filter, and a refresh that only brings what it leaves out.
    let filter = SnapshotFilter { tags: vec![vec!["b".to_owned()]], ..SnapshotFilter::default() };
    let filtered = world.view(ViewOptions { filter, ..options() });
    assert_eq!(list(&filtered, "ids"), [second.short()]);
    world.save(3000, &["a"], |_| Vec::new());
    assert!(!filtered.refresh().unwrap());
    // Forgotten by somebody.
    world.repository.store().delete(ObjectKind::Snapshot, &first).unwrap();
    assert!(view.refresh().unwrap());
    assert_eq!(list(&view, "ids").len(), 2);
    assert_eq!(view.look_up(walk(&view, "ids"), first.short().as_bytes()), Err(ViewError::NotFound));
    // With a limit of no time at all a look brings the new list.
    let eager = world.view(ViewOptions { refresh: Duration::ZERO, ..ViewOptions::default() });
    let last = world.save(4000, &[], |_| Vec::new());
    assert!(list(&eager, "ids").contains(&last.short()));
    assert_eq!(world.told(), []);
}

#[test]
fn what_backstay_keeps_for_itself_is_hidden_at_the_root_only() {
    let world = World::new();
    let id = world.save(1000, &[], |writer| {
        let empty = writer.save_tree(&[]).unwrap();
        let inner = writer.save_tree(&[folder(".backstay", empty)]).unwrap();
        vec![file(".a", &[], 0), folder(".backstay", inner), folder("dir", inner)]
    });
    let place = format!("ids/{}", id.short());
    let view = world.view(ViewOptions::default());
    assert_eq!(list(&view, &place), [".a", "dir"]);
    assert_eq!(view.look_up(walk(&view, &place), b".backstay"), Err(ViewError::NotFound));
    assert_eq!(list(&view, &format!("{place}/dir")), [".backstay"]);
    let open = view.open_folder(walk(&view, &place)).unwrap();
    assert_eq!(view.hold_entry(&open, 1).unwrap().inode, open.entry(&view, 1).unwrap().inode);
    let all = world.view(ViewOptions { internal: true, ..ViewOptions::default() });
    assert_eq!(list(&all, &place), [".a", ".backstay", "dir"]);
}

#[test]
fn owners_are_root_when_asked_and_attributes_are_those_saved() {
    let world = World::new();
    world.save(1000, &[], |_| {
        let xattrs = vec![(b"user.a".to_vec(), b"x\0".to_vec()), (b"user.b".to_vec(), Vec::new())];
        vec![Node { xattrs, mode: 1 << 23 | 0o755, ..file("f", &[], 0) }]
    });
    let layout = Layout::new(&["%T"], Some("2006")).unwrap();
    let view = world.view(ViewOptions { layout, owner_root: true, ..ViewOptions::default() });
    let inode = walk(&view, "1970/f");
    let found = view.attributes(inode).unwrap();
    assert_eq!((found.uid, found.gid, found.mode), (0, 0, 0o4755));
    assert_eq!(view.xattr(inode, b"user.a").unwrap(), b"x\0");
    assert_eq!(view.xattr(inode, b"user.c"), Err(ViewError::NoAttribute));
    let names: Vec<Vec<u8>> = view.xattrs(inode).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [b"user.a".to_vec(), b"user.b".to_vec()]);
}

#[test]
fn holes_are_found_and_count_no_blocks() {
    let world = World::new();
    let hole = world.repository.chunker().zero_chunk_len() as u64;
    world.save(1000, &[], |writer| {
        let zeros = data(writer, &vec![0; hole as usize]);
        let content = [data(writer, b"start"), zeros, zeros, data(writer, b"end")];
        vec![file("sparse", &content, 8 + 2 * hole)]
    });
    let view = world.view(ViewOptions::default());
    let inode = walk(&view, "snapshots/1970-01-01T00:16:40Z/sparse");
    assert_eq!(view.attributes(inode).unwrap().blocks, 1);
    let open = view.open_file(inode).unwrap();
    assert_eq!(open.size(), 8 + 2 * hole);
    assert_eq!((open.next_hole(0), open.next_data(0)), (Some(5), Some(0)));
    assert_eq!((open.next_hole(6), open.next_data(5)), (Some(6), Some(5 + 2 * hole)));
    assert_eq!(open.next_hole(5 + 2 * hole), Some(open.size()), "the end counts as a hole");
    assert_eq!((open.next_hole(open.size()), open.next_data(open.size())), (None, None));
    assert_eq!(view.read(&open, 3 + 2 * hole, 9).unwrap(), b"\0\0end");
}

#[test]
fn a_blob_that_is_gone_hurts_its_own_file_and_is_told_once() {
    let world = World::new();
    world.save(1000, &[], |writer| vec![file("good", &[data(writer, b"good")], 4)]);
    let packs = |world: &World| -> Vec<Id> {
        world.repository.store().list(ObjectKind::Pack).unwrap().into_iter().map(|(id, _)| id).collect()
    };
    let before = packs(&world);
    // Only this data is in a pack of its own: the trees are in another.
    world.save(2000, &[], |writer| vec![file("bad", &[data(writer, b"bad")], 3), file("unknown", &[Id([9; 32])], 3)]);
    let view = world.view(ViewOptions::default());
    let index = world.repository.load_index().unwrap();
    let holds_bad = |pack: &Id| index.pack_blobs(pack).iter().any(|blob| blob.id == Id::of(b"bad"));
    for pack in packs(&world).iter().filter(|pack| !before.contains(pack) && holds_bad(pack)) {
        world.repository.store().delete(ObjectKind::Pack, pack).unwrap();
    }
    let bad = view.open_file(walk(&view, "snapshots/1970-01-01T00:33:20Z/bad")).unwrap();
    for _ in 0..3 {
        assert_eq!(view.read(&bad, 0, 3), Err(ViewError::Io));
        assert_eq!(view.open_file(walk(&view, "snapshots/1970-01-01T00:33:20Z/unknown")).unwrap_err(), ViewError::Io);
    }
    let good = view.open_file(walk(&view, "snapshots/1970-01-01T00:16:40Z/good")).unwrap();
    assert_eq!(view.read(&good, 0, 9).unwrap(), b"good");
    let told = world.told();
    let paths: Vec<&str> = told.iter().map(|(path, _)| path.as_str()).collect();
    let expected = ["/snapshots/1970-01-01T00:33:20Z/bad", "/snapshots/1970-01-01T00:33:20Z/unknown"];
    assert_eq!(paths, expected, "{told:?}");
    assert!(told[0].1.contains(&Id::of(b"bad").to_hex()), "{told:?}");
    drop(world.home);
}
