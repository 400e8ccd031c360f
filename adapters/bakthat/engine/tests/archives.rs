//! Archives as others read them, and others' archives as we unpack them.

#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use backstay_bakthat::archive::{ArchiveOptions, unpack_archive, write_archive};
use backstay_bakthat::excludes::Excludes;
use backstay_bakthat::gzip::{gunzip_file, gzip_file};
use backstay_bakthat::{Control, Error};

fn write(source: &Path, out: &Path, excludes: &[&str]) -> Vec<String> {
    let excludes = Excludes::new(excludes, false);
    let arcname = source.file_name().unwrap().as_bytes();
    let options = ArchiveOptions { arcname, excludes: &excludes, compress: true };
    let mut left_out = Vec::new();
    let size = write_archive(source, out, &options, &Control::default(), &mut |path| {
        left_out.push(String::from_utf8_lossy(path).into_owned());
    });
    assert_eq!(size.unwrap(), fs::metadata(out).unwrap().len());
    left_out
}

fn unpack(archive: &Path, folder: &Path) -> Result<(), Error> {
    unpack_archive(archive, folder, &Control::default())
}

/// Runs Python with its own tarfile; gives what it prints.
fn python(script: &str, arguments: &[&Path]) -> String {
    let output = Command::new("python3").arg("-c").arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with something of everything.
fn site(folder: &Path) -> std::path::PathBuf {
    let site = folder.join("site");
    fs::create_dir_all(site.join("sub/empty")).unwrap();
    fs::write(site.join("a"), "hello").unwrap();
    fs::write(site.join("zero"), "").unwrap();
    fs::write(site.join("large"), vec![7; 3_000_000]).unwrap();
    fs::hard_link(site.join("a"), site.join("sub/again")).unwrap();
    symlink("/etc/hosts", site.join("absolute")).unwrap();
    symlink("../a", site.join("sub/relative")).unwrap();
    fs::write(site.join(OsStr::from_bytes(b"no\xfftext")), "x").unwrap();
    fs::write(site.join("n".repeat(200)), "long").unwrap();
    symlink("t".repeat(300), site.join("long-link")).unwrap();
    fs::set_permissions(site.join("a"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(site.join("sub"), fs::Permissions::from_mode(0o1500)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in ["a", "zero", "sub"] {
        fs::File::open(site.join(name)).unwrap().set_modified(old).unwrap();
    }
    fs::File::open(site.join("large")).unwrap().set_modified(SystemTime::UNIX_EPOCH - Duration::from_secs(5)).unwrap();
    site
}

/// A path with its mode, time, number of names, and contents or target.
type Seen = (Vec<u8>, u32, i64, u64, Vec<u8>);

/// Every path below a folder with what counts of it.
fn seen(folder: &Path) -> Vec<Seen> {
    fn below(root: &Path, folder: &Path, list: &mut Vec<Seen>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let contents = if stat.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else if stat.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let links = if stat.is_file() { stat.nlink() } else { 0 };
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            list.push((name, stat.mode(), stat.mtime(), links, contents));
            if stat.is_dir() {
                below(root, &path, list);
            }
        }
    }
    let mut list = Vec::new();
    below(folder, folder, &mut list);
    list.sort();
    list
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let site = site(folder.path());
    let archive = folder.path().join("site.tgz");
    assert_eq!(write(&site, &archive, &[]), Vec::<String>::new());
    let back = folder.path().join("back");
    unpack(&archive, &back).unwrap();
    assert_eq!(seen(&site), seen(&back.join("site")));
    // Over what is there, too.
    fs::write(back.join("site/zero"), "other").unwrap();
    unpack(&archive, &back).unwrap();
    assert_eq!(seen(&site), seen(&back.join("site")));
}

#[test]
fn python_and_gnu_tar_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let site = site(folder.path());
    let archive = folder.path().join("site.tgz");
    write(&site, &archive, &[]);
    let script = "
import sys, tarfile
for mode in ('r:gz', 'r|gz'):
    with tarfile.open(sys.argv[1], mode) as tar:
        for member in tar:
            data = tar.extractfile(member).read() if member.isreg() else b''
            assert member.size == len(data)
            print(ascii(member.name[:20]), member.type.decode(), oct(member.mode), member.mtime, member.linkname[:12], len(data))
";
    let told = python(script, &[&archive]);
    let half = told.len() / 2;
    assert_eq!(told[..half], told[half..], "as a file and as a stream");
    for line in [
        "'site/a' 0 0o4751 1000000000  5",
        "'site/sub/again' 1 0o4751 1000000000 site/a 0",
        "'site/absolute' 2 0o777",
        "'site/no\\udcfftext' 0",
        "'site/large' 0 0o644 -5  3000000",
        "'site/sub' 5 0o1500 1000000000",
        "'site/sub/empty' 5",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    assert!(told.starts_with("'site' 5"), "{told}");
    let back = folder.path().join("back");
    fs::create_dir(&back).unwrap();
    let done = Command::new("tar").arg("xpzf").arg(&archive).arg("-C").arg(&back).status().unwrap();
    assert!(done.success());
    assert_eq!(seen(&site), seen(&back.join("site")));
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let site = site(folder.path());
    let (one, two) = (folder.path().join("1.tgz"), folder.path().join("2.tgz"));
    write(&site, &one, &[]);
    write(&site, &two, &[]);
    assert!(fs::read(one).unwrap() == fs::read(two).unwrap());
}

#[test]
fn what_python_writes_in_any_format_is_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let site = site(folder.path());
    let script = "
import sys, tarfile
for name, form in (('gnu', tarfile.GNU_FORMAT), ('pax', tarfile.PAX_FORMAT)):
    for mode in ('w', 'w:gz'):
        with tarfile.open(f'{sys.argv[2]}/{name}.{mode[-1]}', mode, format=form) as tar:
            tar.add(sys.argv[1], 'site')
";
    python(script, &[&site, folder.path()]);
    for name in ["gnu.w", "gnu.z", "pax.w", "pax.z"] {
        let back = folder.path().join(format!("back-{name}"));
        unpack(&folder.path().join(name), &back).unwrap();
        assert_eq!(seen(&site), seen(&back.join("site")), "{name}");
    }
}

#[test]
fn a_deep_tree_is_written_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path().join("top");
    let mut deep = top.clone();
    for _ in 0..300 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "x").unwrap();
    fs::write(top.join("d/z"), "behind").unwrap();
    let archive = folder.path().join("top.tgz");
    write(&top, &archive, &[]);
    unpack(&archive, &folder.path().join("back")).unwrap();
    assert_eq!(seen(&top), seen(&folder.path().join("back/top")));
}

#[test]
fn what_patterns_leave_out_is_told_and_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("site");
    fs::create_dir_all(site.join("sub/tmp")).unwrap();
    for name in ["keep", "x.log", "mytmp", "sub/x.log", "sub/tmp/in"] {
        fs::write(site.join(name), "x").unwrap();
    }
    let archive = folder.path().join("site.tgz");
    let left_out = write(&site, &archive, &["*.log", "tmp/"]);
    let shown = |name: &str| site.join(name).to_str().unwrap().to_owned();
    assert_eq!(left_out, [shown("sub/tmp"), shown("sub/x.log"), shown("x.log")]);
    unpack(&archive, folder.path()).unwrap();
    let back = folder.path().join("back");
    unpack(&archive, &back).unwrap();
    let names: Vec<_> = seen(&back).into_iter().map(|(name, ..)| String::from_utf8(name).unwrap()).collect();
    assert_eq!(names, ["site", "site/keep", "site/mytmp", "site/sub"]);
    let nothing = folder.path().join("nothing.tgz");
    write(&site, &nothing, &["site"]);
    unpack(&nothing, &folder.path().join("empty")).unwrap();
    assert_eq!(fs::read_dir(folder.path().join("empty")).unwrap().count(), 0);
}

#[test]
fn an_archive_in_its_own_folder_is_not_its_member() {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("site");
    fs::create_dir(&site).unwrap();
    fs::write(site.join("a"), "x").unwrap();
    let archive = site.join("site.tgz");
    write(&site, &archive, &[]);
    unpack(&archive, &folder.path().join("back")).unwrap();
    assert_eq!(seen(&folder.path().join("back/site")).len(), 1);
}

/// Makes an archive by Python: members are name, type, link.
fn hostile(archive: &Path, members: &str) {
    let script = format!(
        "
import sys, io, tarfile
with tarfile.open(sys.argv[1], 'w:gz') as tar:
    for name, kind, link in {members}:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        data = b'evil' if kind == tarfile.REGTYPE else b''
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
"
    );
    python(&script, &[archive]);
}

#[test]
fn members_that_would_leave_the_folder_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("bad.tgz");
    for members in [
        "[('good', tarfile.REGTYPE, ''), ('../evil', tarfile.REGTYPE, '')]",
        "[('good', tarfile.REGTYPE, ''), ('/tmp/bakthat-evil', tarfile.REGTYPE, '')]",
        "[('good', tarfile.REGTYPE, ''), ('a/../../evil', tarfile.REGTYPE, '')]",
        "[('good', tarfile.REGTYPE, ''), ('a/..', tarfile.DIRTYPE, '')]",
        "[('good', tarfile.REGTYPE, ''), ('hard', tarfile.LNKTYPE, '../secret')]",
        "[('good', tarfile.REGTYPE, ''), ('hard', tarfile.LNKTYPE, '/etc/passwd')]",
    ] {
        hostile(&archive, members);
        let back = folder.path().join("back");
        let done = unpack(&archive, &back);
        assert!(matches!(done, Err(Error::UnsafeMember(_))), "{members}: {done:?}");
        assert!(!back.exists());
        assert!(!folder.path().join("evil").exists());
    }
}

#[test]
fn no_link_is_followed_out_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("bad.tgz");
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    for members in [
        "[('link', tarfile.SYMTYPE, '../outside'), ('link/evil', tarfile.REGTYPE, '')]",
        "[('link', tarfile.SYMTYPE, '../outside'), ('link', tarfile.DIRTYPE, ''), ('link/evil', tarfile.REGTYPE, '')]",
        "[('link', tarfile.SYMTYPE, '../outside'), ('hard', tarfile.LNKTYPE, 'link/secret')]",
        "[('d/link', tarfile.SYMTYPE, '../../outside'), ('d/link/x/evil', tarfile.REGTYPE, '')]",
    ] {
        hostile(&archive, members);
        let back = folder.path().join("back");
        let done = unpack(&archive, &back);
        assert!(matches!(done, Err(Error::UnsafeMember(_))), "{members}: {done:?}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        fs::remove_dir_all(&back).unwrap();
    }
    // One that was there before, in the place of a file: it is replaced, and its target stays.
    let back = folder.path().join("back");
    fs::create_dir(&back).unwrap();
    symlink("../outside/secret", back.join("file")).unwrap();
    hostile(&archive, "[('file', tarfile.REGTYPE, '')]");
    unpack(&archive, &back).unwrap();
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read(back.join("file")).unwrap(), b"evil");
}

#[test]
fn what_is_no_archive_or_not_whole_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let site = site(folder.path());
    let archive = folder.path().join("site.tgz");
    write(&site, &archive, &[]);
    let whole = fs::read(&archive).unwrap();
    let back = folder.path().join("back");
    let mut flipped = whole.clone();
    let last = flipped.len() - 6;
    flipped[last] ^= 1;
    let noise: Vec<u8> = (0..5000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for bytes in [&whole[..whole.len() / 2], &whole[..whole.len() - 1], &flipped, &noise, b"", b"short"] {
        fs::write(&archive, bytes).unwrap();
        let error = unpack(&archive, &back).unwrap_err().to_string();
        assert!(!back.exists(), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn gzip_of_every_length_is_one_member_that_python_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to, back) = (folder.path().join("in"), folder.path().join("out"), folder.path().join("back"));
    let block = 512 << 10;
    for length in [0, 1, 100, block - 1, block, block + 1, 5 * block + 17] {
        let bytes: Vec<u8> = (0..length).map(|at: u64| ((at * at) >> 7) as u8).collect();
        fs::write(&from, &bytes).unwrap();
        gzip_file(&from, &to, &Control::default()).unwrap();
        gunzip_file(&to, &back, &Control::default()).unwrap();
        assert!(fs::read(&back).unwrap() == bytes);
        let script = "
import sys, zlib
whole = open(sys.argv[1], 'rb').read()
one = zlib.decompressobj(31)
data = one.decompress(whole) + one.flush()
assert one.eof and not one.unused_data and data == open(sys.argv[2], 'rb').read()
";
        python(script, &[&to, &from]);
    }
}

#[test]
fn whoever_gives_up_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let site = site(folder.path());
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let archive = out.join("site.tgz");
    let excludes = Excludes::default();
    let options = ArchiveOptions { arcname: b"site", excludes: &excludes, compress: true };
    let control = Control::default();
    control.cancel();
    let done = write_archive(&site, &archive, &options, &control, &mut |_| {});
    assert!(matches!(done, Err(Error::Interrupted)), "{done:?}");
    assert!(matches!(gzip_file(&site.join("large"), &archive, &control), Err(Error::Interrupted)));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn a_full_disk_is_told_with_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let site = site(folder.path());
    let excludes = Excludes::default();
    let options = ArchiveOptions { arcname: b"site", excludes: &excludes, compress: true };
    let done = write_archive(&site, Path::new("/dev/full"), &options, &Control::default(), &mut |_| {});
    let Err(Error::File { path, error }) = done else { panic!("{done:?}") };
    assert_eq!((path.as_path(), error.raw_os_error()), (Path::new("/dev/full"), Some(28)));
}
