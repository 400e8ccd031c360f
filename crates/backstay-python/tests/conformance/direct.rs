//! Lines 46 to 51: direct input and output.

use std::io::Read;

use backstay_bareos_protocol::{Created, FromWorker, Task, ToWorker};

use super::backup::open_fails;
use crate::common::objects::{lines, plugin, run};
use crate::common::{Host, Outcome, Plugin, probe_definition, restore, spec};

/// A backup of a file, a pipe of a child and a socket by descriptor, and of an object by IO_READ between them.
fn mixed() -> (Plugin, Outcome) {
    let plugin = plugin(
        "import subprocess, socket\n\
         def objects():\n  for how in 'file', 'pipe', 'plugin', 'socket': state['how'] = how; yield '/' + how, FT_REG, {}, b'by plugin'\n\
         old = plugin_io\n\
         def plugin_io(iop):\n\
         \x20 how = state['how']\n\
         \x20 if how == 'plugin': return old(iop)\n\
         \x20 out('io', iop.func, iop.filedes == state.get('fd'))\n\
         \x20 if iop.func == IO_OPEN:\n\
         \x20   if how == 'file': state['fd'] = os.open(__file__, os.O_RDONLY); os.lseek(state['fd'], 1, 0)\n\
         \x20   if how == 'pipe':\n\
         \x20     state['child'] = subprocess.Popen(['sh', '-c', 'head -c 300000 /dev/zero'], stdout=subprocess.PIPE)\n\
         \x20     state['fd'] = state['child'].stdout.fileno()\n\
         \x20   if how == 'socket':\n\
         \x20     a, b = socket.socketpair(); b.send(b'by socket'); b.close(); state['fd'] = a.detach()\n\
         \x20   iop.filedes = state['fd']; iop.status = iostat_do_in_core\n\
         \x20 if iop.func == IO_CLOSE:\n\
         \x20   if how == 'pipe': state['child'].stdout.close(); out('exit', state['child'].wait())\n\
         \x20   else: os.close(state['fd'])\n\
         \x20 return bRC_OK",
    );
    let outcome = run(&plugin).good();
    (plugin, outcome)
}

#[test]
fn item_46_an_open_descriptor_is_read_without_a_call() {
    let (plugin, outcome) = mixed();
    let source = std::fs::read(plugin.path("plug.py")).unwrap();
    // From where it stands.
    assert_eq!(outcome.saved[0].data, source[1..]);
    assert_eq!(outcome.saved[1].data, vec![0; 300_000]);
    assert_eq!(outcome.saved[3].data, b"by socket");
    let reads = lines(&plugin, &["io"]).into_iter().filter(|line| line.starts_with("io 2")).count();
    assert_eq!(reads, 2, "those of the object that is read by calls");
}

#[test]
fn item_47_a_status_of_1_without_a_descriptor_is_no_open() {
    open_fails("iop.status = 1; return bRC_OK", "Success");
    open_fails("iop.status = 1; iop.io_errno = 24; iop.filedes = -2; return bRC_OK", "Too many open files");
}

#[test]
fn item_48_each_file_chooses_its_way() {
    let (plugin, outcome) = mixed();
    assert_eq!(outcome.saved[2].data, b"by plugin");
    let calls: Vec<_> = lines(&plugin, &["io"]).iter().map(|line| line[3..4].to_owned()).collect();
    assert_eq!(calls.join(""), "1414122414");
}

#[test]
fn item_49_the_descriptor_comes_back_in_io_close_and_nobody_else_holds_it() {
    let (plugin, _) = mixed();
    // A child is waited for in IO_CLOSE: it ends when the last copy of the other end is closed.
    let direct = ["io 1 False", "io 4 True", "io 1 False", "io 4 True", "exit 0"];
    assert_eq!(lines(&plugin, &["io", "exit"])[..5], direct);
    // In a restore, `cat` in a child sees the end of its input.
    let definition = probe_definition("pipe", "size=3000000");
    let saved = crate::common::backup(&definition).good().saved;
    let folder = tempfile::tempdir().unwrap();
    restore(&definition, &saved, folder.path()).good();
    assert_eq!(std::fs::read(folder.path().join("probe/pipe")).unwrap(), vec![0; 3_000_000]);
}

#[test]
fn item_50_a_restore_writes_to_the_descriptor_zeros_too() {
    let plugin = plugin(
        "def objects():\n\
         \x20 yield '/f', FT_REG, {}, b'written directly'\n\
         \x20 flags = bytearray(5); flags[0] = 1 << 5\n\
         \x20 yield '/s', FT_REG, dict(flags=flags, st_size=786508), b'x' * 262136 + bytes(2 * 262136) + b'y' * 100\n\
         old = plugin_io\n\
         def plugin_io(iop):\n\
         \x20 if not (iop.flags & os.O_CREAT or state.get('direct')): return old(iop)\n\
         \x20 out('io', iop.func, iop.flags, iop.mode)\n\
         \x20 if iop.func == IO_OPEN:\n\
         \x20   state['direct'] = os.open(iop.fname, iop.flags, iop.mode); iop.filedes = state['direct']; iop.status = 1\n\
         \x20 if iop.func == IO_CLOSE: out('same', iop.filedes == state['direct']); os.close(iop.filedes)\n\
         \x20 return bRC_OK",
    );
    let saved = run(&plugin).good().saved;
    plugin.forget_log();
    let outcome = restore(&plugin.definition(""), &saved, plugin.folder.path()).good();
    assert_eq!(outcome.created, [Created::Fd; 2]);
    assert_eq!(std::fs::read(plugin.path("f")).unwrap(), b"written directly");
    assert_eq!(lines(&plugin, &["io", "attributes", "same"])[0], "io 1 577 384");
    // A host may seek or write the zeros: this one writes them, so no plugin has to seek the descriptor that it gave away.
    assert_eq!(std::fs::read(plugin.path("s")).unwrap(), saved[1].data);
    assert_eq!(saved[1].data.len(), 786_508);
    let order: Vec<_> = lines(&plugin, &["io", "attributes", "same"]).iter().map(|line| line[..2].to_owned()).collect();
    assert_eq!(order, ["io", "at", "io", "sa", "io", "at", "io", "sa"]);
}

#[test]
fn item_51_ten_gibibytes_of_a_pipe_cost_no_calls() {
    let mut host = Host::start(spec(Task::Backup, vec![probe_definition("pipe", "")]));
    let mut length = 0_u64;
    loop {
        match host.next() {
            Some((FromWorker::DataFd, descriptor)) => {
                let mut file = std::fs::File::from(descriptor.unwrap());
                let mut buffer = vec![0; 1 << 20];
                loop {
                    match file.read(&mut buffer).unwrap() {
                        0 => break,
                        count => length += count as u64,
                    }
                }
                drop(file);
                host.send(&ToWorker::DataFdDone(Ok(length)));
            }
            Some((FromWorker::Finished(end), _)) => {
                // The probe would fail with its first IO_READ.
                assert!(end.whole && end.errors == 0, "{end:?} {:?}", host.outcome.messages);
                break;
            }
            Some((FromWorker::Data { .. }, _)) => panic!("data came by calls"),
            other => assert!(other.is_some(), "the worker is gone"),
        }
    }
    assert_eq!(length, 10 << 30);
    host.end();
}
