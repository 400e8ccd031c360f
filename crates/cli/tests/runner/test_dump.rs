use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use crate::common::{World, fails_with, stderr};

#[test]
fn the_contents_come_byte_for_byte() {
    let world = World::new();
    let content: Vec<u8> =
        (0..3_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    world.write("tree/big", &content);
    world.backup(["tree"]);
    for command in ["dump", "cat"] {
        let place = format!("latest:{}", world.shown("tree/big"));
        let assert = world.run([command, &place]).success();
        assert!(assert.get_output().stdout == content, "{command}");
    }
    // As restic takes it.
    let assert = world.run(["dump", "latest", &world.shown("tree/big")]).success();
    assert!(assert.get_output().stdout == content);
}

#[test]
fn a_target_takes_the_file_and_is_never_overwritten() {
    let world = World::with_snapshot();
    let place = format!("latest:{}", world.shown("tree/hello.txt"));
    world.run(["dump", &place, "--target", "copy"]).success();
    assert_eq!(std::fs::read_to_string(world.path("copy")).unwrap(), "hello\n");
    world.write("copy", "mine");
    fails_with(world.command(["dump", &place, "--target", "copy"]), 1, &["copy", "exists"]);
    assert_eq!(std::fs::read_to_string(world.path("copy")).unwrap(), "mine");
}

#[test]
fn what_is_no_file_is_refused() {
    let world = World::with_snapshot();
    fails_with(world.command(["dump", "latest:/missing"]), 1, &["/missing"]);
    fails_with(world.command(["dump", "latest"]), 1, &["SNAPSHOT:PATH", "SNAPSHOT:/"]);
    let file = format!("latest:{}", world.shown("tree/hello.txt"));
    fails_with(world.command(["dump", "--archive", "zip", &file]), 1, &["hello.txt", "--archive", "for folders"]);
    let link = format!("latest:{}", world.shown("tree/link"));
    fails_with(world.command(["dump", &link]), 1, &["no regular file"]);
}

/// A tree with what an archive can get wrong, saved in a snapshot.
fn world_for_archives() -> World {
    let world = World::new();
    world.make_tree();
    let long = "a-long-name-".repeat(20);
    world.write(&format!("tree/{long}/{long}"), "deep");
    world.write("tree/caf\u{e9}", "not ASCII");
    std::fs::write(world.path("tree").join(std::ffi::OsStr::from_bytes(b"raw \xff name")), "raw").unwrap();
    std::os::unix::fs::symlink(format!("to/{long}"), world.path("tree/long link")).unwrap();
    std::fs::hard_link(world.path("tree/hello.txt"), world.path("tree/docs/hello again")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.path("tree/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    rustix::fs::setxattr(world.path("tree/hello.txt"), "user.note", b"a\nb=\xff", rustix::fs::XattrFlags::empty())
        .unwrap();
    let noise: Vec<u8> =
        (0..1_500_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    world.write("tree/big", noise);
    let sparse = std::fs::File::create(world.path("tree/sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    let time = |seconds, nanoseconds| rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    for (name, seconds, nanoseconds) in
        [("tree/hello.txt", 1_600_000_000, 123_456_789), ("tree/docs/readme", -86_400, 0)]
    {
        // GNU tar 1.34 and bsdtar misread fractions of seconds before 1970, each in its own way.
        let time = time(seconds, nanoseconds);
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, world.path(name), &times, rustix::fs::AtFlags::empty()).unwrap();
    }
    std::fs::set_permissions(world.path("tree/docs/readme"), std::os::unix::fs::PermissionsExt::from_mode(0o4711))
        .unwrap();
    world.backup(["tree"]);
    world
}

/// Every name below a folder with type, mode, owner, time, links, contents and attributes, as `find` and friends see it.
fn survey(folder: &Path, with_links: bool) -> Vec<String> {
    let links = if with_links { "%n" } else { "" };
    let output = Command::new("find")
        .current_dir(folder)
        .args([".", "-mindepth", "1", "-printf"])
        .arg(format!("%P %y %m %U %G %T@ {links} %l\\n"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let mut lines: Vec<String> =
        output.stdout.split(|byte| *byte == b'\n').map(|line| line.escape_ascii().to_string()).collect();
    let sums = Command::new("sh")
        .current_dir(folder)
        .args(["-c", "find . -type f -print0 | sort -z | xargs -0 sha256sum; find . -type f -print0 | xargs -0 getfattr -d -e hex 2>/dev/null | sort"])
        .output()
        .unwrap();
    lines.extend(sums.stdout.split(|byte| *byte == b'\n').map(|line| line.escape_ascii().to_string()));
    lines.sort();
    lines
}

#[test]
fn a_folder_becomes_a_tar_archive_that_gnu_tar_and_bsdtar_unpack_to_the_same_tree() {
    let world = world_for_archives();
    let place = format!("latest:{}", world.shown("tree"));
    world.run(["dump", &place, "--target", "tree.tar"]).success();
    let to_pipe = world.run(["dump", "--archive", "tar", &place]).success();
    assert!(to_pipe.get_output().stdout == std::fs::read(world.path("tree.tar")).unwrap());
    let expected = survey(&world.path("tree"), true);
    assert!(expected.iter().any(|line| line.contains("user.note")), "the file system has no attributes: {expected:?}");
    for (program, arguments) in [
        ("tar", &["--warning=no-timestamp", "--xattrs", "--xattrs-include=*", "-xpf"][..]),
        ("bsdtar", &["--xattrs", "-xpf"]),
    ] {
        let target = world.path(format!("by {program}"));
        std::fs::create_dir(&target).unwrap();
        let output = Command::new(program)
            .env("LC_ALL", "C.UTF-8")
            .current_dir(&target)
            .args(arguments)
            .arg(world.path("tree.tar"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{program}");
        assert_eq!(survey(&target, true), expected, "{program}");
    }
}

#[test]
fn a_folder_becomes_a_zip_archive_that_other_programs_unpack() {
    let world = world_for_archives();
    let place = format!("latest:{}", world.shown("tree"));
    let assert = world.run(["dump", "-a", "zip", &place, "-t", "tree.zip"]).success();
    let text = stderr(assert.get_output());
    assert!(text.lines().count() == 1 && text.contains("/pipe is left out"), "{text}");
    let script = "\
import os, stat, sys, zipfile
archive = zipfile.ZipFile('tree.zip')
assert archive.testzip() is None
seen = set()
for info in archive.infolist():
    name = info.filename if info.flag_bits & 0x800 else os.fsdecode(info.orig_filename.encode('cp437'))
    path = os.path.join('tree', name)
    stats = os.lstat(path)
    assert stat.S_IFMT(info.external_attr >> 16) == stat.S_IFMT(stats.st_mode), name
    assert stat.S_IMODE(info.external_attr >> 16) == stat.S_IMODE(stats.st_mode), name
    data = archive.read(info)
    if stat.S_ISREG(stats.st_mode):
        assert data == open(path, 'rb').read(), name
    elif stat.S_ISLNK(stats.st_mode):
        assert os.fsdecode(data) == os.readlink(path), name
    else:
        assert name.endswith('/') and data == b'', name
    seen.add(path.rstrip('/'))
expected = {os.path.join(at, name) for at, folders, files in os.walk('tree') for name in folders + files}
assert seen == expected - {'tree/pipe'}, seen ^ expected
";
    let output = Command::new("/usr/bin/python3").current_dir(world.path("")).args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Info-ZIP reads it too, front to back.
    let output = Command::new("unzip").current_dir(world.path("")).args(["-tq", "tree.zip"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn names_start_with_the_path_that_stood_behind_the_snapshot_as_with_restic() {
    let world = World::with_snapshot();
    let ours = |arguments: &[&str]| {
        std::fs::write(world.path("ours.tar"), &world.run(arguments).success().get_output().stdout).unwrap();
        list(&world, "ours.tar")
    };
    let docs = world.shown("tree/docs");
    for (snapshot, path) in [("latest".to_owned(), docs.as_str()), (format!("latest:{}", world.shown("tree")), "docs")]
    {
        let named = ours(&["dump", &snapshot, path]);
        let inside = path.trim_start_matches('/');
        assert_eq!(named, [format!("{inside}/deep/"), format!("{inside}/deep/note"), format!("{inside}/readme")]);
    }
    assert_eq!(ours(&["dump", &format!("latest:{docs}")]), ["deep/", "deep/note", "readme"]);
    let restic = world.restic(["dump", "latest", &docs]).assert().success();
    std::fs::write(world.path("restic.tar"), &restic.get_output().stdout).unwrap();
    assert_eq!(ours(&["dump", "latest", &docs]), list(&world, "restic.tar"));
}

/// The names in a tar archive, sorted.
fn list(world: &World, archive: &str) -> Vec<String> {
    let output = Command::new("tar").args(["-tf"]).arg(world.path(archive)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut names: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn an_archive_does_not_go_to_a_terminal() {
    let world = World::with_snapshot();
    let program = world.bare().get_program().to_str().unwrap().to_owned();
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &format!("{program} dump latest:/"), "/dev/null"])
        .env("BACKSTAY_REPOSITORY", world.path("repository"))
        .env("BACKSTAY_PASSWORD", crate::common::PASSWORD)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("terminal") && text.contains("--target"), "{text}");
}

#[test]
fn a_damaged_file_ends_the_archive_and_leaves_no_target() {
    let world = World::with_snapshot();
    for entry in std::fs::read_dir(world.path("repository/data")).unwrap() {
        for pack in std::fs::read_dir(entry.unwrap().path()).unwrap() {
            let pack = pack.unwrap().path();
            // The tree packs are needed to get as far as the file.
            if holds_data(&world, &pack) {
                let mut bytes = std::fs::read(&pack).unwrap();
                bytes[5] ^= 0x40;
                std::fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
                std::fs::write(&pack, bytes).unwrap();
            }
        }
    }
    let place = format!("latest:{}", world.shown("tree"));
    fails_with(world.command(["dump", &place, "--target", "half.tar"]), 1, &["half.tar", "/", "damaged"]);
    assert!(!world.path("half.tar").exists());
}

/// Whether a pack holds data blobs, which restic's list of blobs tells.
fn holds_data(world: &World, pack: &Path) -> bool {
    let id = pack.file_name().unwrap().to_str().unwrap();
    let index = world.restic(["list", "index", "--no-lock"]).assert().success();
    crate::common::stdout(index.get_output()).lines().any(|file| {
        let text = world.restic(["cat", "index", file, "--no-lock"]).assert().success();
        let value: serde_json::Value = serde_json::from_slice(&text.get_output().stdout).unwrap();
        let packs = value["packs"].as_array().unwrap().clone();
        packs.iter().any(|one| one["id"] == id && one["blobs"][0]["type"] == "data")
    })
}
