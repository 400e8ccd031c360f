//! The targets. Their inputs are plain bytes; where a decoder takes more than that, the first bytes say it.

use std::io::{self, Cursor};
use std::os::fd::AsFd;
use std::path::Path;

use backstay_bakthat::Control;
use backstay_bakthat::age::Head;
use backstay_bakthat::archive::{ArchiveOptions, unpack_archive, write_archive};
use backstay_bakthat::excludes::Excludes;
use backstay_bareos_fileset::{Selection, Surroundings};
use backstay_bareos_host::Module;
use backstay_bareos_protocol::{FromWorker, ToWorker};
use backstay_core::{Attr, Entry, FileKind, Id, SavedJob, SideObject, Stat, Time};
use backstay_engine::ledger::{LedgerHeader, LedgerReader};
use backstay_nbd::codec::answer::{Answer, Assembly, Step as Next};
use backstay_nbd::codec::option::{
    Greeting, Info, InfoKind, InfoRequest, MetaContextRequest, OptionHeader, OptionKind, OptionReply, decode_export,
    decode_meta_context, encode_export,
};
use backstay_nbd::codec::reply::{Head as ReplyHead, decode_head};
use backstay_nbd::codec::request::{Command, Flags, Request};
use backstay_nbd::handshake::{Encryption, Handshake, MAX_KEPT, Opened, Step, Style, Terms};
use backstay_repository::config::Config;
use backstay_repository::crypto::{MasterKey, OVERHEAD};
use backstay_repository::gotext::{parse_time, to_json, unquote, write_name, write_time};
use backstay_repository::index::{decode_index_file, encode_index_file};
use backstay_repository::keyfile::{self, KdfParams, KeyOrigin};
use backstay_repository::lock::LockInfo;
use backstay_repository::pack::{decode_header, encode_header, header_len};
use backstay_repository::pattern::Pattern;
use backstay_repository::{BlobKind, Node, PackBlob, Snapshot, Tree, container};
use backstay_worker::channel::Channel;

use crate::Target;

pub(crate) const ALL: &[Target] = &[
    Target { name: "envelope", run: envelope, corpus: envelope_corpus },
    Target { name: "container", run: unpacked, corpus: unpacked_corpus },
    Target { name: "config", run: config, corpus: config_corpus },
    Target { name: "key_file", run: key_file, corpus: key_file_corpus },
    Target { name: "index_file", run: index_file, corpus: index_file_corpus },
    Target { name: "pack_header", run: pack_header, corpus: pack_header_corpus },
    Target { name: "tree", run: tree, corpus: tree_corpus },
    Target { name: "snapshot", run: snapshot, corpus: snapshot_corpus },
    Target { name: "lock", run: lock, corpus: lock_corpus },
    Target { name: "name", run: name, corpus: name_corpus },
    Target { name: "time", run: time, corpus: time_corpus },
    Target { name: "blob", run: blob, corpus: blob_corpus },
    Target { name: "ledger", run: ledger, corpus: ledger_corpus },
    Target { name: "worker_frame", run: worker_frame, corpus: worker_frame_corpus },
    Target { name: "definition", run: definition, corpus: definition_corpus },
    Target { name: "pattern", run: pattern, corpus: pattern_corpus },
    Target { name: "file_set", run: file_set, corpus: file_set_corpus },
    Target { name: "age_head", run: age_head, corpus: age_head_corpus },
    Target { name: "archive", run: archive, corpus: archive_corpus },
    Target { name: "nbd_answers", run: nbd_answers, corpus: nbd_answers_corpus },
    Target { name: "nbd_codec", run: nbd_codec, corpus: nbd_codec_corpus },
    Target { name: "nbd_handshake", run: nbd_handshake, corpus: nbd_handshake_corpus },
];

fn age_head(data: &[u8]) {
    let mut rest = data;
    let _ = Head::read(&mut rest, Path::new("age"));
}

fn age_head_corpus() -> Vec<Vec<u8>> {
    vec![
        b"-> scrypt AAAAAAAAAAAAAAAAAAAAAA 16\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n--- AAAA\n".to_vec(),
        b"-> X25519 AAAA\nAAAA\n--- AAAA\n".to_vec(),
    ]
}

/// Whatever an archive holds: it is unpacked into its folder, or refused.
fn archive(data: &[u8]) {
    // Holes may be as long as they like to say: they would be written, for hours.
    if data.chunks(512).any(|block| block.get(156) == Some(&b'S')) {
        return;
    }
    let Ok(place) = tempfile::tempdir() else { return };
    let (from, into) = (place.path().join("archive"), place.path().join("into"));
    if std::fs::write(&from, data).is_err() {
        return;
    }
    let _ = unpack_archive(&from, &into, &Control::default());
    assert!(std::fs::read(&from).is_ok_and(|there| there == data));
    let names = std::fs::read_dir(place.path()).map(Iterator::count).unwrap_or_default();
    assert!(names <= 2, "something landed beside the folder");
}

fn archive_corpus() -> Vec<Vec<u8>> {
    let Ok(place) = tempfile::tempdir() else { return Vec::new() };
    let (top, out) = (place.path().join("top"), place.path().join("out"));
    let made = std::fs::create_dir_all(top.join("folder"))
        .and_then(|()| std::fs::write(top.join("file"), "some text"))
        .and_then(|()| std::fs::hard_link(top.join("file"), top.join("folder/same")))
        .and_then(|()| std::os::unix::fs::symlink("../..", top.join("folder/link")));
    let excludes = Excludes::default();
    let archives = [false, true].map(|compress| {
        let options = ArchiveOptions { arcname: b"top", excludes: &excludes, compress };
        write_archive(&top, &out, &options, &Control::default(), &mut |_| {}).ok()?;
        std::fs::read(&out).ok()
    });
    made.map(|()| archives.into_iter().flatten().collect()).unwrap_or_default()
}

fn key() -> MasterKey {
    MasterKey::from_bytes(&[7; 64])
}

fn envelope(data: &[u8]) {
    let key = key();
    if let Ok(plain) = key.open(data) {
        assert_eq!(plain.len() + OVERHEAD, data.len());
    }
    let sealed = key.seal(data);
    assert!(key.open(&sealed).is_ok_and(|plain| plain == data));
    // A byte that changed is always noticed; which one, the input says.
    let mut changed = sealed;
    let at = data.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let at = at % changed.len();
    changed[at] ^= 1;
    assert!(key.open(&changed).is_err());
}

fn envelope_corpus() -> Vec<Vec<u8>> {
    vec![Vec::new(), b"plain".to_vec(), key().seal(b""), key().seal(b"some text")]
}

fn unpacked(data: &[u8]) {
    for version in [1, 2] {
        let _ = container::unwrap(version, data.to_vec());
    }
    let wrapped = container::wrap(2, data);
    assert!(wrapped.is_ok_and(|wrapped| container::unwrap(2, wrapped).is_ok_and(|plain| plain == data)));
}

fn unpacked_corpus() -> Vec<Vec<u8>> {
    let wrapped =
        [b"{\"a\":1}".to_vec(), vec![b' '; 100_000]].map(|json| container::wrap(2, &json).unwrap_or_default());
    [b"{}".to_vec(), b"[1]".to_vec(), vec![2], vec![3, 4]].into_iter().chain(wrapped).collect()
}

fn config(data: &[u8]) {
    if let Ok(config) = Config::decode(data) {
        let _ = config.chunker(&key());
        let encoded = config.encode();
        assert!(encoded.is_ok_and(|json| Config::decode(&json).is_ok()));
    }
}

fn config_corpus() -> Vec<Vec<u8>> {
    [true, false].iter().filter_map(|fast| Config::generate(*fast).ok()?.encode().ok()).collect()
}

fn key_file(data: &[u8]) {
    // A key file may ask for a second's work. That is no finding; neither is it to be done a million times.
    let asks = |name: &str| {
        let file: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
        file.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0)
    };
    let work = asks("N").saturating_mul(asks("r")).saturating_mul(asks("p"));
    if work <= 1 << 12 || work > 1 << 40 {
        let _ = keyfile::open(data, b"password");
    }
}

fn key_file_corpus() -> Vec<Vec<u8>> {
    let params = KdfParams { log_n: 2, r: 1, p: 1 };
    let made = keyfile::wrap(&key(), b"password", params, &KeyOrigin::default()).unwrap_or_default();
    let other = keyfile::wrap(&key(), b"another", params, &KeyOrigin::default()).unwrap_or_default();
    vec![made, other]
}

fn blobs() -> Vec<PackBlob> {
    let blob = |number: u8, kind, offset, length, uncompressed| PackBlob {
        id: Id([number; 32]),
        kind,
        offset,
        length,
        uncompressed: std::num::NonZeroU32::new(uncompressed),
    };
    vec![blob(1, BlobKind::Data, 0, 100, 0), blob(2, BlobKind::Data, 100, 50, 400)]
}

fn index_file(data: &[u8]) {
    for version in [1, 2] {
        let _ = decode_index_file(version, data);
    }
}

fn index_file_corpus() -> Vec<Vec<u8>> {
    vec![
        encode_index_file(&[(Id([9; 32]), blobs()), (Id([8; 32]), Vec::new())]),
        br#"{"supersedes":["0909090909090909090909090909090909090909090909090909090909090909"],"packs":[],"packs_to_delete":[]}"#.to_vec(),
    ]
}

fn pack_header(data: &[u8]) {
    if let Ok(blobs) = decode_header(data) {
        // A compressed blob of no bytes, which nobody writes, is read as restic reads it: as one that is not compressed. Then
        // what we would write is shorter.
        let length = blobs.iter().map(PackBlob::header_len).sum::<usize>();
        assert!(length <= data.len());
        assert!(length < data.len() || encode_header(&blobs) == data);
    }
    if let (Some(last), Some(size)) = (data.first_chunk::<4>(), data.last_chunk::<8>()) {
        let size = u64::from_le_bytes(*size);
        if let Ok(length) = header_len(*last, size) {
            assert!(u64::from(length) <= size);
        }
    }
}

fn pack_header_corpus() -> Vec<Vec<u8>> {
    let mut with_size = 50_u32.to_le_bytes().to_vec();
    with_size.extend_from_slice(&1000_u64.to_le_bytes());
    vec![encode_header(&blobs()), Vec::new(), with_size]
}

fn tree(data: &[u8]) {
    if let Ok(tree) = Tree::decode(data) {
        let encoded = tree.encode();
        match Tree::decode(&encoded) {
            Ok(again) => assert_eq!(again.encode(), encoded, "what we write is read as it was"),
            Err(error) => panic!("what we wrote is no tree: {error}"),
        }
    }
}

fn tree_corpus() -> Vec<Vec<u8>> {
    let node = |kind, name: &[u8]| Node { name: name.to_vec(), ..Node::new(kind) };
    let mut file = node(FileKind::File, b"file\xff\n\"");
    file.content = Some(vec![Id([3; 32]), Id([4; 32])]);
    file.size = 12;
    file.xattrs = vec![(b"user.a".to_vec(), vec![0, 255])];
    file.mtime = Time { seconds: 1_700_000_000, nanoseconds: 5 };
    let mut directory = node(FileKind::Directory, b"folder");
    directory.subtree = Some(Id([5; 32]));
    let mut link = node(FileKind::Symlink, b"link");
    link.link_target = b"\xc3(".to_vec();
    let device = node(FileKind::BlockDevice, b"x");
    let nodes = vec![directory, file, link, device];
    vec![Tree { nodes: Vec::new() }.encode(), Tree { nodes }.encode(), br#"{"nodes":null}"#.to_vec()]
}

fn snapshot(data: &[u8]) {
    if let Ok(snapshot) = serde_json::from_slice::<Snapshot>(data) {
        let _ = snapshot.is_partial();
        let json = match to_json(&snapshot) {
            Ok(json) => json,
            Err(error) => panic!("a snapshot that was read cannot be written: {error}"),
        };
        let again = serde_json::from_slice::<Snapshot>(&json).ok().and_then(|again| to_json(&again).ok());
        assert_eq!(again.as_deref(), Some(&json[..]));
    }
}

fn snapshot_corpus() -> Vec<Vec<u8>> {
    let snapshot = Snapshot {
        tree: Id([1; 32]),
        parent: Some(Id([2; 32])),
        paths: vec!["/a".to_owned(), "/b \u{fffd}".to_owned()],
        hostname: "host".to_owned(),
        tags: vec!["one".to_owned()],
        uid: 7,
        ..Snapshot::default()
    };
    [snapshot, Snapshot::default()].iter().filter_map(|snapshot| to_json(snapshot).ok()).collect()
}

fn lock(data: &[u8]) {
    if let Ok(info) = serde_json::from_slice::<LockInfo>(data) {
        // Whether its process lives is not asked: the number is anybody's.
        let again = to_json(&info).ok().and_then(|json| serde_json::from_slice::<LockInfo>(&json).ok());
        assert_eq!(again, Some(info));
    }
}

fn lock_corpus() -> Vec<Vec<u8>> {
    vec![
        br#"{"time":"2026-01-02T03:04:05.678901234+01:00","exclusive":true,"hostname":"h","username":"u","pid":12,"uid":1,"gid":2}"#
            .to_vec(),
        br#"{"time":"2026-01-02T03:04:05Z","exclusive":false}"#.to_vec(),
    ]
}

fn name(data: &[u8]) {
    let mut quoted = Vec::new();
    write_name(data, &mut quoted);
    // The name as JSON, then Go's quoting inside it: both are undone again.
    let text = serde_json::from_slice::<String>(&quoted);
    assert!(text.is_ok_and(|text| unquote(&text).is_ok_and(|name| name == data)), "a name does not come back");
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = unquote(text);
    }
}

fn name_corpus() -> Vec<Vec<u8>> {
    [
        &b"plain"[..],
        b"with \"quotes\" and \\",
        b"\xff\xfe\x00\x1b\x7f",
        "\u{e9}\u{2028}\u{feff}\u{10ffff}".as_bytes(),
        b"\\x41\\u00e9\\U0001f600\\377",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

fn time(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(time) = parse_time(text) {
        assert!(time.nanoseconds < 1_000_000_000);
        // An offset, or a leap second, can lead out of the years 0 to 9999: Go cannot write that either.
        if !(-62_167_219_200..253_402_300_800).contains(&time.seconds) {
            return;
        }
        let mut written = Vec::new();
        write_time(time, &mut written);
        let again = std::str::from_utf8(&written).ok().and_then(parse_time);
        assert_eq!(again, Some(time), "{text} is written as {}", String::from_utf8_lossy(&written));
    }
}

fn time_corpus() -> Vec<Vec<u8>> {
    [
        &b"2026-01-02T03:04:05.678901234+01:00"[..],
        b"0001-01-01T00:00:00Z",
        b"1969-12-31T23:59:59.5-12:30",
        b"9999-12-31T23:59:59.999999999Z",
        b"2024-02-29T00:00:00Z",
        b"9999-12-31T23:59:60Z",
        b"0000-01-01T00:00:00+01:00",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

/// Four bytes of length, then what claims to become that long.
fn blob(data: &[u8]) {
    let Some((length, compressed)) = data.split_first_chunk::<4>() else { return };
    let length = u32::from_le_bytes(*length) as usize;
    let mut out = Vec::new();
    let whole = container::decompress_into(compressed, length, &mut out).is_ok();
    assert!(!whole || out.len() == length);
    assert!(out.capacity() <= compressed.len().saturating_mul(128 << 10).max(64), "memory without a bound");
}

fn blob_corpus() -> Vec<Vec<u8>> {
    [&b"some text, some text, some text"[..], &[0; 3000]]
        .iter()
        .map(|plain| {
            // The container's first byte is not part of the frame.
            let wrapped = container::wrap(2, plain).unwrap_or_default();
            let length = u32::try_from(plain.len()).unwrap_or(0).to_le_bytes();
            [&length[..], wrapped.get(1..).unwrap_or_default()].concat()
        })
        .collect()
}

fn ledger(data: &[u8]) {
    let [first, second] = [b"backstay ledger 1\n", b"backstay ledger 2\n"].map(|magic| [magic, data].concat());
    for bytes in [first, second, data.to_vec()] {
        let Ok(mut ledger) = LedgerReader::read_from(Box::new(Cursor::new(bytes)), "source") else { continue };
        let _ = (ledger.header().job(), ledger.objects().len());
        while let Ok(Some(entry)) = ledger.next_entry() {
            let _ = entry.size;
        }
    }
}

/// A ledger's records as its writer makes them, without the first line.
fn ledger_corpus() -> Vec<Vec<u8>> {
    let frame = |body: Vec<u8>| [&u32::try_from(body.len()).unwrap_or(0).to_le_bytes()[..], &body].concat();
    // The records' numbers in the file: header of the first version 0, entry 1, end 2, header 3, chapter 4, object 5, gone 6.
    let header = (0_u8, "source", "bareos-fd", vec!["python3:module_name=x"], 7_u32);
    let entry = Entry {
        name: b"/etc/hosts".to_vec(),
        kind: FileKind::File,
        link: Vec::new(),
        hard_link: false,
        stat: Stat::default(),
        native: vec![1, 2],
    };
    let attrs = vec![Attr::Acl(vec![1]), Attr::Xattr { name: b"user.x".to_vec(), value: vec![2] }];
    let entry = (1_u8, entry, attrs, vec![Id([1; 32])], 5_u64);
    let end = || postcard::to_stdvec(&(2_u8, 1_u64));
    let framed = |records: &[postcard::Result<Vec<u8>>]| -> Vec<u8> {
        records.iter().flat_map(|record| frame(record.clone().unwrap_or_default())).collect()
    };
    let first = framed(&[postcard::to_stdvec(&header), postcard::to_stdvec(&entry), end()]);

    let job = SavedJob {
        id: 7,
        name: "job".to_owned(),
        definitions: vec!["python3:module_name=x".to_owned()],
        ..SavedJob::default()
    };
    let header = (3_u8, LedgerHeader { source: "source".to_owned(), adapter: "bareos-fd".to_owned(), jobs: vec![job] });
    let object =
        SideObject { kind: 25, index: 1, name: b"o".to_vec(), bytes: vec![1, 2, 3], native: vec![0], job_id: 7 };
    let mut second =
        framed(&[postcard::to_stdvec(&header), postcard::to_stdvec(&(4_u8, 0_u32)), postcard::to_stdvec(&entry)]);
    let tail = second.len() as u64 + 18;
    second.extend(framed(&[
        postcard::to_stdvec(&(5_u8, object)),
        postcard::to_stdvec(&(6_u8, b"/etc/passwd".to_vec(), 1_u64)),
        end(),
    ]));
    second.extend(tail.to_le_bytes());
    vec![first, second]
}

/// The first byte says in which direction, the rest is what comes out of the socket before it is closed.
fn worker_frame(data: &[u8]) {
    let Some((direction, bytes)) = data.split_first() else { return };
    let Ok((ours, theirs)) = Channel::pair() else { return };
    let mut channel = Channel::new(ours);
    // More than a socket takes at once would need a second thread, and says nothing new.
    let bytes = &bytes[..bytes.len().min(60_000)];
    if rustix::net::send(theirs.as_fd(), bytes, rustix::net::SendFlags::empty()) != Ok(bytes.len()) {
        return;
    }
    drop(theirs);
    if direction & 1 == 0 { receive_all::<FromWorker>(&mut channel) } else { receive_all::<ToWorker>(&mut channel) }
}

fn receive_all<T: serde::de::DeserializeOwned>(channel: &mut Channel) {
    while let Ok(Some(_)) = channel.receive::<T>() {}
}

fn worker_frame_corpus() -> Vec<Vec<u8>> {
    let frame = |direction: u8, body: &[u8]| {
        [&[direction][..], &u32::try_from(body.len()).unwrap_or(0).to_le_bytes(), body].concat()
    };
    (0..12_u8)
        .flat_map(|number| [frame(0, &[number, 3, b'a', b'b', b'c', 0, 0, 0]), frame(1, &[number, 1, 0, 0, 0])])
        .collect()
}

fn definition(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(module) = Module::of(text) {
        let _ = format!("{module:?}");
    }
}

fn definition_corpus() -> Vec<Vec<u8>> {
    [&b"python3:module_path=/a\\:b:module_name=c:key=value"[..], b"python:module_name=x", b"bpipe:/x:y:z", b"python3:a"]
        .map(<[u8]>::to_vec)
        .into()
}

/// A pattern, a zero byte, a path.
fn pattern(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (Some(pattern), Some(path)) = (parts.next(), parts.next()) else { return };
    let Ok(text) = std::str::from_utf8(pattern) else { return };
    for fold_case in [false, true] {
        if let Ok(pattern) = Pattern::new(text, fold_case) {
            let _ = pattern.matches(path);
            let _ = pattern.may_match_below(path);
        }
    }
}

fn pattern_corpus() -> Vec<Vec<u8>> {
    [&b"*.txt\0/a/b.txt"[..], b"/a/**/c\0/a/b/c", b"[a-z]?\\*\0/xy", b"**/**/**/a\0/a/a/a/a/a/a/a/a/b"]
        .map(<[u8]>::to_vec)
        .into()
}

/// A system in which every file holds the same, and a command prints itself.
struct OneFile<'a>(&'a [u8]);

impl Surroundings for OneFile<'_> {
    fn read(&mut self, _file: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.to_vec())
    }

    fn run(&mut self, command: &str) -> io::Result<Vec<u8>> {
        Ok(command.as_bytes().to_vec())
    }
}

fn file_set(data: &[u8]) {
    // Each text includes itself, as far as it is let.
    if data.len() > 4096 {
        return;
    }
    match backstay_bareos_fileset::parse(Path::new("/set"), &mut OneFile(data)) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(sets) => {
            for set in sets {
                let bytes = postcard::to_stdvec(&set).unwrap_or_default();
                assert!(postcard::from_bytes(&bytes).is_ok_and(|again: backstay_bareos_fileset::FileSet| again == set));
                for include in &set.includes {
                    // What was parsed has no expression that cannot be used.
                    let selection = Selection::new(include, &set.excludes);
                    let decision =
                        selection.as_ref().map(|rules| rules.decide(b"/a/b.c", data.len().is_multiple_of(2)));
                    assert!(decision.is_ok_and(|decision| decision.options < include.options.len()));
                }
            }
        }
    }
}

fn file_set_corpus() -> Vec<Vec<u8>> {
    [
        &b"FileSet { Name = a; Include { Options { OneFs = no; Wild = \"*.[oa]\" } File = /x } Exclude { File = /t* } }"[..],
        b"FileSet {\n Name = \"b\"\n Include {\n Options { RegexFile = \"^(a|b)+[[:alpha:]]{1,3}$\" }\n Plugin = \"python3:\"\n \"x=\\\\:\" } }",
        b"@x\nFileSet { Name = c; Include { File = \"</list\"; File = \"|/cmd\" } } # end",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

/// What a server answers: the first byte says to which request, the others are heads and what stands behind them. Whatever comes is
/// a lie or an answer to what was asked.
fn nbd_answers(data: &[u8]) {
    let _ = data.first_chunk().map(OptionReply::decode);
    let _ = data.first_chunk().map(Greeting::decode);
    let _ = decode_meta_context(data);
    if let Ok(Some(info)) = Info::decode(data) {
        assert_eq!(info.encode(), data);
    }
    if let Some((name, description)) = decode_export(data) {
        assert_eq!(encode_export(name, Some(description)).as_deref(), Some(data));
    }
    let [asked, bytes @ ..] = data else { return };
    let command = [Command::Read, Command::BlockStatus, Command::Write][usize::from(asked % 3)];
    let request = Request { flags: Flags(0), command, cookie: 7, offset: 512, count: 64 };
    let structured = asked & 16 == 0;
    let assembly = Assembly::new(request, structured, structured.then_some(1));
    if let Some(answer) = nbd_answer(assembly, bytes) {
        let (read, status) = (command == Command::Read, command == Command::BlockStatus);
        assert_eq!(answer.data.len(), if read { 64 } else { 0 });
        assert_eq!(!answer.extents.is_empty(), status);
    }
}

fn nbd_answer(mut assembly: Assembly, mut bytes: &[u8]) -> Option<Answer> {
    let mut received = 0;
    loop {
        let (head, length) = decode_head(bytes).ok()??;
        bytes = &bytes[length..];
        let mut step = assembly.begin(&head).ok()?;
        loop {
            step = match step {
                Next::Fixed(length) => {
                    let (fixed, rest) = bytes.split_at_checked(length)?;
                    bytes = rest;
                    assembly.fixed(fixed).ok()?
                }
                Next::Data(range) => {
                    let (content, rest) = bytes.split_at_checked(range.len())?;
                    bytes = rest;
                    received += range.len();
                    assembly.place(range).copy_from_slice(content);
                    assembly.placed().ok()?
                }
                Next::More => break,
                Next::Done => {
                    assert!(received <= 64, "a byte came twice");
                    return assembly.finish().ok();
                }
            };
        }
    }
}

fn nbd_answers_corpus() -> Vec<Vec<u8>> {
    let chunk = |flags: u16, kind: u16, payload: &[u8]| {
        let head = [&0x668e_33ef_u32.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes()].concat();
        [&head[..], &7_u64.to_be_bytes(), &(payload.len() as u32).to_be_bytes(), payload].concat()
    };
    let at = |offset: u64, rest: &[u8]| [&offset.to_be_bytes()[..], rest].concat();
    let answer = |asked: u8, parts: &[Vec<u8>]| [&[asked][..], &parts.concat()].concat();
    let error = b"\0\0\0\x05\0\x04text";
    vec![
        answer(0, &[chunk(0, 1, &at(512, &[5; 32])), chunk(1, 2, &at(544, &32_u32.to_be_bytes()))]),
        answer(0, &[chunk(0, 0x8002, &[&error[..], &512_u64.to_be_bytes()].concat()), chunk(1, 0, b"")]),
        answer(16, &[ReplyHead::simple(7, None).as_bytes().to_vec(), vec![5; 64]]),
        answer(1, &[chunk(1, 5, &[0, 0, 0, 1, 0, 0, 0, 64, 0, 0, 0, 3])]),
        answer(2, &[ReplyHead::simple(7, None).as_bytes().to_vec()]),
        Info::Export(512, 1).encode(),
        Info::BlockSize(1, 4096, 1 << 25).encode(),
        encode_export(b"disk", Some(b"words")).unwrap_or_default(),
    ]
}

fn nbd_codec(data: &[u8]) {
    let _ = decode_head(data);
    let _ = MetaContextRequest::decode(data);
    if let Some(request) = InfoRequest::decode(data) {
        assert_eq!(InfoRequest::decode(&request.encode()).as_ref(), Some(&request));
    }
    if let Some(head) = data.first_chunk() {
        let header = OptionHeader::decode(head);
        assert!(header.is_none_or(|header| header.encode() == head));
    }
    if let Some(head) = data.first_chunk() {
        let request = Request::decode(head);
        assert!(request.is_err() || request.is_ok_and(|request| request.encode() == *head));
    }
}

fn nbd_codec_corpus() -> Vec<Vec<u8>> {
    let request = Request { flags: Flags::FUA, command: Command::Write, cookie: 7, offset: 512, count: 4096 };
    vec![
        request.encode().to_vec(),
        OptionHeader { kind: OptionKind::Go, length: 6 }.encode(),
        InfoRequest { name: b"disk".to_vec(), wanted: vec![InfoKind::Name, InfoKind::BlockSize] }.encode(),
        MetaContextRequest::encode(b"disk", &[b"base:", b"base:allocation"]),
        ReplyHead::simple(7, None).as_bytes().to_vec(),
        ReplyHead::data(7, 512, 4096).as_bytes().to_vec(),
    ]
}

/// A conversation: the first byte says what the server offers, the second in how large pieces the rest arrives. In pieces or
/// whole, the server says the same, and never keeps more than it promises.
fn nbd_handshake(data: &[u8]) {
    let [offer, piece, bytes @ ..] = data else { return };
    let encryption = [Encryption::Off, Encryption::Offered, Encryption::Required][usize::from(offer % 3)];
    let style = if offer & 16 == 0 { Style::Newstyle } else { Style::Oldstyle };
    let terms = Terms { style, encryption, structured_replies: offer & 32 == 0, ..Terms::default() };
    let whole = nbd_conversation(terms, bytes, bytes.len().max(1));
    assert_eq!(whole, nbd_conversation(terms, bytes, usize::from(*piece).max(1)));
}

fn nbd_conversation(terms: Terms, bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut handshake, mut step) = Handshake::begin(terms, &mut out);
    let (mut kept, mut arrived, mut waits) = (Vec::new(), bytes.chunks(piece), false);
    loop {
        step = match step {
            Step::More => {
                if waits {
                    assert!(kept.len() <= MAX_KEPT);
                    let Some(piece) = arrived.next() else { return out };
                    kept.extend_from_slice(piece);
                }
                let (consumed, step) = handshake.receive(&kept, &mut out);
                kept.drain(..consumed);
                waits = step == Step::More;
                step
            }
            Step::List => handshake.listed(Some(&[]), &mut out),
            Step::Open(request) => {
                let export = Opened { size: 1, flags: 1, infos: Vec::new() };
                handshake.opened((request.name != b"missing").then_some(&export), &mut out)
            }
            Step::Encrypt => handshake.encrypted(),
            Step::Start(_) | Step::Close => return out,
        };
    }
}

fn nbd_handshake_corpus() -> Vec<Vec<u8>> {
    let option = |kind, data: &[u8]| [&OptionHeader { kind, length: data.len() as u32 }.encode(), data].concat();
    let info = InfoRequest { name: b"disk".to_vec(), wanted: vec![InfoKind::Description] }.encode();
    let context = MetaContextRequest::encode(b"disk", &[b"base:allocation"]);
    let talk = |offer: u8, options: &[Vec<u8>]| [&[offer, 7, 0, 0, 0, 3][..], &options.concat()].concat();
    vec![
        talk(
            0,
            &[
                option(OptionKind::StructuredReply, b""),
                option(OptionKind::SetMetaContext, &context),
                option(OptionKind::Go, &info),
            ],
        ),
        talk(1, &[option(OptionKind::StartTls, b""), option(OptionKind::List, b""), option(OptionKind::Abort, b"")]),
        talk(2, &[option(OptionKind::Other(99), b"data"), option(OptionKind::ExportName, b"disk")]),
        talk(16, &[]),
    ]
}
