//! Real clients (item 68): they say whether a server of scripts is one that they know.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::LEAST;
use super::server::{Server, eventually, program, script, text};

/// A disk of 8 MiB in memory, version 2, that knows holes and takes parallel calls.
const DISK: &str = include_str!("../../../../adapters/nbdkit/examples/memory.py");

/// Runs a client.
fn client(name: &str, arguments: &[&str]) -> Output {
    // Some leave files where they run.
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(name).args(arguments).current_dir(&folder).output();
    let output = output.unwrap_or_else(|error| panic!("{name} cannot be started ({error}): run scripts/setup test"));
    assert!(output.status.success(), "{name} {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    output
}

fn pattern(folder: &Path) -> (String, Vec<u8>) {
    let mut bytes: Vec<u8> =
        (0..8_u32 << 18).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    bytes[1 << 20..3 << 20].fill(0);
    let path = folder.join("pattern.raw");
    std::fs::write(&path, &bytes).unwrap();
    (path.to_str().unwrap().to_owned(), bytes)
}

/// Says loudly, past the test harness, that a test cannot be run here.
fn skip(test: &str, reason: &str) {
    std::io::stderr().write_all(format!("SKIPPED {test}: {reason}\n").as_bytes()).unwrap();
}

#[test]
fn item_68_nbdinfo() {
    let server = Server::with(DISK, &["size=8M"]);
    let output = client("nbdinfo", &["--json", &server.uri()]);
    assert!(text(&output.stdout).contains("\"export-size\": 8388608"), "{}", text(&output.stdout));
    client("nbdinfo", &["--list", "--json", &server.uri()]);
    let map = client("nbdinfo", &["--map", &server.uri()]);
    assert!(text(&map.stdout).contains("hole,zero"), "{}", text(&map.stdout));
}

#[test]
fn item_68_nbdinfo_by_socket_activation() {
    let script = script(LEAST);
    let output = Command::new("nbdinfo")
        .args(["--size", "--", "[", env!("CARGO_BIN_EXE_backstay-python"), "nbdkit", "python", &script.path, "]"])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "1048576\n", "{}", text(&output.stderr));
}

#[test]
fn item_68_nbdcopy_both_ways() {
    let server = Server::with(DISK, &["size=8M"]);
    let (file, bytes) = pattern(server.script.folder.path());
    client("nbdcopy", &[&file, &server.uri()]);
    let back = server.file("back.raw");
    client("nbdcopy", &[&server.uri(), back.to_str().unwrap()]);
    assert!(std::fs::read(back).unwrap() == bytes);
}

#[test]
fn item_68_qemu() {
    let server = Server::with(DISK, &["size=8M"]);
    let (file, bytes) = pattern(server.script.folder.path());
    let uri = server.uri();
    client("qemu-img", &["info", "-f", "raw", &uri]);
    client("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &file, &uri]);
    client("qemu-img", &["compare", "-f", "raw", "-F", "raw", &file, &uri]);
    let back = server.file("back.raw");
    client("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, back.to_str().unwrap()]);
    assert!(std::fs::read(back).unwrap() == bytes);
    let commands = ["-c", "write -P 7 4096 8192", "-c", "read -P 7 4096 8192", "-c", "write -z 4096 4096"];
    let more = ["-c", "read -P 0 4096 4096", "-c", "discard 8192 4096", "-c", "flush"];
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(commands.iter().chain(&more));
    arguments.push(&uri);
    let output = client("qemu-io", &arguments);
    assert!(!text(&output.stdout).contains("failed"), "{}", text(&output.stdout));
}

#[test]
fn item_68_nbdsh() {
    // libnbd's Python module belongs to the system's Python.
    let script = script(DISK);
    let line = "/usr/bin/python3 -m nbd -u \"$uri\" -c 'h.pwrite(b\"hello\" * 100, 512)' -c 'assert h.pread(500, 512) == b\"hello\" * 100' \
                -c 'assert h.can_fua() and h.can_trim() and not h.is_read_only()'";
    let output = program(&["-U", "-", "python", &script.path, "size=8M", "--run", line]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn item_68_fio() {
    let server = Server::with(DISK, &["size=8M"]);
    let uri = format!("--uri={}", server.uri());
    client(
        "fio",
        &[
            "--name=job",
            "--ioengine=nbd",
            &uri,
            "--rw=randrw",
            "--bs=4k",
            "--iodepth=64",
            "--numjobs=4",
            "--size=8M",
            "--number_ios=2000",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--offset_increment=2M",
            "--thread=0",
        ],
    );
}

/// A disk that is a file of the system's by nbdfuse, as long as the value lives.
struct Fuse {
    file: String,
    child: std::process::Child,
    folder: tempfile::TempDir,
}

impl Fuse {
    fn of(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk").to_str().unwrap().to_owned();
        let child = Command::new("nbdfuse")
            .args([&file, &server.uri()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("nbdfuse cannot be started ({error}): run scripts/setup test"));
        let mut fuse = Self { file, child, folder };
        eventually("the file of nbdfuse", || {
            let gone = fuse.child.try_wait().unwrap();
            assert!(gone.is_none(), "nbdfuse ended: {gone:?}");
            Path::new(&fuse.file).exists().then_some(())
        });
        fuse
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = Command::new("fusermount3").arg("-u").arg(self.folder.path()).status();
        let _ = self.child.wait();
    }
}

#[test]
fn a_file_system_on_a_script_is_made_filled_checked_and_read_back() {
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        skip("a_file_system_on_a_script", &format!("/dev/fuse: {error}"));
        return;
    }
    let server = Server::with(DISK, &["size=64M"]);
    let files = server.file("files");
    for (folder, count) in [("few", 3_u32), ("many/deep", 300)] {
        std::fs::create_dir_all(files.join(folder)).unwrap();
        for number in 0..count {
            let content: Vec<u8> = (0..number * 331).map(|byte| (byte ^ number) as u8).collect();
            std::fs::write(files.join(folder).join(number.to_string()), content).unwrap();
        }
    }
    std::os::unix::fs::symlink("../few/2", files.join("many/link")).unwrap();
    let back = server.file("back");
    std::fs::create_dir(&back).unwrap();
    {
        let fuse = Fuse::of(&server);
        client("mkfs.ext4", &["-q", "-F", "-d", files.to_str().unwrap(), &fuse.file]);
    }
    // Through other connections, and with nothing of it in the kernel's memory.
    let fuse = Fuse::of(&server);
    client("fsck.ext4", &["-f", "-n", &fuse.file]);
    client("debugfs", &["-R", &format!("rdump / {}", back.display()), &fuse.file]);
    std::fs::remove_dir(back.join("lost+found")).unwrap();
    client("diff", &["-r", "--no-dereference", files.to_str().unwrap(), back.to_str().unwrap()]);
}

#[test]
fn item_68_the_kernel() {
    if !Path::new("/dev/nbd0").exists() {
        skip("item_68_the_kernel", "the kernel has no network block devices (/dev/nbd0)");
        return;
    }
    let server = Server::with(DISK, &["size=8M"]);
    let (file, bytes) = pattern(server.script.folder.path());
    client("nbd-client", &["-unix", server.socket.to_str().unwrap(), "/dev/nbd0", "-C", "2"]);
    let used = std::panic::catch_unwind(|| {
        client("dd", &[&format!("if={file}"), "of=/dev/nbd0", "bs=1M", "conv=fsync"]);
        let back = server.file("back.raw");
        client("dd", &["if=/dev/nbd0", &format!("of={}", back.display()), "bs=64k", "iflag=direct"]);
        assert!(std::fs::read(back).unwrap() == bytes);
    });
    client("nbd-client", &["-d", "/dev/nbd0"]);
    used.unwrap();
}
