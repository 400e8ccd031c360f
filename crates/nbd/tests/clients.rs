//! Real clients on a Unix socket: libnbd's programs, and qemu's.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use backstay_core::ThreadModel;
use backstay_nbd::memory::MemoryDisk;
use common::{Running, run};

const MODELS: [ThreadModel; 4] = [
    ThreadModel::SerializeConnections,
    ThreadModel::SerializeAllRequests,
    ThreadModel::SerializeRequests,
    ThreadModel::Parallel,
];

fn memory(model: ThreadModel) -> Running {
    Running::new(Arc::new(MemoryDisk::new(64 << 20, model)))
}

fn libnbd(program: &str, arguments: &[&str]) -> String {
    run(program, "libnbd-bin", arguments)
}

fn qemu(program: &str, arguments: &[&str]) -> String {
    run(program, "qemu-utils", arguments)
}

fn file(server: &Running, name: &str) -> String {
    server.folder().join(name).display().to_string()
}

/// A file of some data, some zeroes and some more data.
fn sample(server: &Running, name: &str) -> String {
    let mut bytes: Vec<u8> =
        (0..(64 << 20) / 8_u64).flat_map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()).collect();
    bytes[10 << 20..30 << 20].fill(0);
    let path = file(server, name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn same(one: &str, another: &str) -> bool {
    std::fs::read(one).unwrap() == std::fs::read(another).unwrap()
}

#[test]
fn nbdinfo_shows_what_the_disk_is() {
    for model in MODELS {
        let server = memory(model);
        let text = libnbd("nbdinfo", &["--json", &server.uri()]);
        let multi = format!("\"can_multi_conn\": {}", model != ThreadModel::SerializeConnections);
        let parts = [
            "\"export-size\": 67108864",
            "\"is_read_only\": false",
            "\"can_fast_zero\": true",
            "\"base:allocation\"",
            "newstyle-fixed",
            "\"structured\": true",
            &multi,
        ];
        for part in parts {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}

#[test]
fn nbdinfo_lists_and_maps() {
    let server = memory(ThreadModel::SerializeAllRequests);
    let text = libnbd("nbdinfo", &["--list", "--json", &server.uri()]);
    assert!(text.contains("\"export-name\": \"\""), "{text}");
    qemu("qemu-io", &["-f", "raw", &server.uri(), "-c", "write 1M 128k"]);
    let text = libnbd("nbdinfo", &["--map", &server.uri()]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        ["0", "1048576", "3", "hole,zero"],
        ["1048576", "131072", "0", "data"],
        ["1179648", "65929216", "3", "hole,zero"],
    ];
    assert_eq!(lines, expected);
}

#[test]
fn nbdcopy_copies_both_ways_under_every_model() {
    for model in MODELS {
        let server = memory(model);
        let (there, back) = (sample(&server, "there"), file(&server, "back"));
        libnbd("nbdcopy", &[&there, &server.uri()]);
        libnbd("nbdcopy", &[&server.uri(), &back]);
        assert!(same(&there, &back), "{model:?}");
        libnbd("nbdcopy", &["--synchronous", &there, &server.uri()]);
        if model != ThreadModel::SerializeConnections {
            libnbd("nbdcopy", &["--allocated", "--destination-is-zero", &server.uri(), &server.uri()]);
        }
        libnbd("nbdcopy", &["--request-size=33554432", &server.uri(), &back]);
        assert!(same(&there, &back), "{model:?}");
    }
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    for model in MODELS {
        let server = memory(model);
        let (there, back) = (sample(&server, "there"), file(&server, "back.qcow2"));
        let text = qemu("qemu-img", &["info", "-f", "raw", &server.uri()]);
        assert!(text.contains("67108864 bytes"), "{text}");
        qemu("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &there, &server.uri()]);
        qemu("qemu-img", &["compare", "-f", "raw", "-F", "raw", &there, &server.uri()]);
        qemu("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &server.uri(), &back]);
        qemu("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &there, &back]);
        let text = qemu("qemu-img", &["map", "--output=json", "-f", "raw", &server.uri()]);
        assert!(text.contains("\"data\": false"), "{text}");
    }
}

#[test]
fn qemu_io_reads_writes_zeroes_trims_and_flushes() {
    for model in MODELS {
        let server = memory(model);
        let commands = [
            "write -P 5 0 1M",
            "write -f -P 6 1M 64k",
            "write -z 512k 256k",
            "write -z -u 4M 1M",
            "discard 8M 1M",
            "read -P 5 0 512k",
            "read -P 0 512k 256k",
            "read -P 5 768k 256k",
            "read -P 6 1M 64k",
            "read -P 0 8M 1M",
            "aio_write -P 7 20M 1M",
            "aio_write -P 8 21M 1M",
            "aio_flush",
            "flush",
            "read -P 8 21M 1M",
        ];
        let uri = server.uri();
        let mut arguments = vec!["-f", "raw", &uri[..]];
        commands.iter().for_each(|command| arguments.extend(["-c", command]));
        let text = qemu("qemu-io", &arguments);
        assert!(!text.contains("failed"), "{text}");
    }
}

#[test]
fn nbdsh_sees_errors_flags_and_contexts() {
    let server = memory(ThreadModel::Parallel);
    let script = "
import errno
h.add_meta_context('base:allocation')
h.connect_uri('URI')
assert h.can_meta_context('base:allocation')
assert h.can_fua() and h.can_trim() and h.can_cache() and h.can_df() and h.can_zero() and h.can_fast_zero()
h.set_strict_mode(0)
def fails(number, call):
    try:
        call()
    except nbd.Error as error:
        assert error.errnum == number, error
        return
    raise AssertionError('it succeeded')
fails(errno.EINVAL, lambda: h.pread(512, 1 << 40))
fails(errno.ENOSPC, lambda: h.pwrite(bytes(512), 1 << 40))
fails(errno.EINVAL, lambda: h.trim(0, 0))
h.pwrite(b'x' * 512, 512, nbd.CMD_FLAG_FUA)
h.zero(512, 4096, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
h.cache(4096, 0)
assert h.pread(512, 512, nbd.CMD_FLAG_DF) == b'x' * 512
entries = []
h.block_status(1 << 20, 0, lambda name, at, found, err: entries.extend(found), nbd.CMD_FLAG_REQ_ONE)
assert entries == [65536, 0], entries
buffers = [nbd.Buffer(4096) for _ in range(500)]
cookies = [h.aio_pread(buffer, 4096 * at) for at, buffer in enumerate(buffers)]
while cookies:
    h.poll(-1)
    cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]
h.shutdown()
";
    // What `nbdsh` does, with the Python that the package is for.
    run("/usr/bin/python3", "python3-libnbd", &["-m", "nbd", "-c", &script.replace("URI", &server.uri())]);
}

#[test]
fn nbdinfo_finds_everything_in_the_old_style_and_without_extras() {
    use backstay_nbd::handshake::{Style, Terms};
    use backstay_nbd::server::Settings;
    let terms = [
        (Terms { style: Style::Oldstyle, ..Terms::default() }, "oldstyle"),
        (Terms { mask: 0, ..Terms::default() }, "newstyle"),
        (Terms { structured_replies: false, ..Terms::default() }, "newstyle-fixed"),
        (Terms { meta_contexts: false, ..Terms::default() }, "newstyle-fixed"),
    ];
    for (terms, protocol) in terms {
        let disk = Arc::new(MemoryDisk::new(64 << 20, ThreadModel::Parallel));
        let server = Running::with(disk, Settings { terms, ..Settings::default() });
        let text = libnbd("nbdinfo", &["--json", &server.uri()]);
        assert!(text.contains(&format!("\"protocol\": \"{protocol}\"")), "{text}");
        let (there, back) = (sample(&server, "there"), file(&server, "back"));
        libnbd("nbdcopy", &[&there, &server.uri()]);
        libnbd("nbdcopy", &[&server.uri(), &back]);
        assert!(same(&there, &back), "{protocol}");
    }
}

#[test]
fn fio_reads_and_writes_many_at_a_time() {
    let server = memory(ThreadModel::Parallel);
    let uri = format!("--uri=nbd+unix:///?socket={}", server.socket().display());
    let arguments = [
        "--name=x",
        "--ioengine=nbd",
        &uri,
        "--rw=randrw",
        "--bs=4k",
        "--size=16m",
        "--iodepth=64",
        "--numjobs=4",
        "--io_size=4m",
        "--offset_increment=16m",
        "--verify=crc32c",
        "--group_reporting",
    ];
    let text = run("fio", "fio", &arguments);
    assert!(text.contains("err= 0"), "{text}");
}
