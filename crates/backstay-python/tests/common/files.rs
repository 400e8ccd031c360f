//! Plugins that announce files of four bytes, for jobs that build on earlier ones; they log every call.
#![allow(dead_code, unreachable_pub, unused_imports)]

use backstay_bareos_protocol::prior::{KnownFile, RestoreObject};
use backstay_bareos_protocol::{JobSpec, StatFields, Task};

pub use super::objects::lines;
use super::{Plugin, Saved, spec};

/// Announces `files()`: name, type, fields of the packet (`st_…` those of its stat); says what it was asked.
pub const BASE: &str = r#"
import bareosfd
from bareosfd import *
from probe import out
state = {}
def load_bareos_plugin(text): out('load', text); return bRC_OK
def parse_plugin_definition(text): state['files'] = iter(files()); out('parse', text); return bRC_OK
def handle_plugin_event(event): out('event', event); return bRC_OK
def files(): return iter(())
def start_backup_file(packet):
    found = next(state['files'], None)
    if found is None: return bRC_Stop
    out('start', found[0])
    packet.fname, packet.type = found[0], found[1]
    packet.statp = StatPacket(mode=0o100644, nlink=1, size=4, mtime=1000, ctime=1000)
    for name, value in found[2].items():
        setattr(packet.statp if name.startswith('st_') else packet, name, value)
    return bRC_OK
def end_backup_file(): out('end'); return bRC_More
def plugin_io(iop):
    out('io', iop.func)
    if iop.func == IO_OPEN: state['data'] = b'data'
    if iop.func == IO_READ:
        iop.buf = bytearray(state['data']); state['data'] = b''
        iop.status = len(iop.buf)
    if iop.func == IO_WRITE: iop.status = iop.count
    return bRC_OK
def get_acl(acl): out('get_acl', acl.fname); return bRC_OK
def get_xattr(xattr): out('get_xattr', xattr.fname); return bRC_OK
def restore_object_data(rop):
    out('object', rop.object_name, bytes(rop.object), rop.object_type, rop.object_index, rop.object_len,
        rop.object_full_len, rop.object_compression, rop.stream, rop.jobid, rop.plugin_name)
    return bRC_OK
def check_file(name): out('check_file', name); return state.get(name, bRC_OK)
def start_restore_file(cmd): return bRC_OK
def create_file(rp): rp.create_status = CF_EXTRACT; return bRC_OK
def set_file_attributes(rp): return bRC_OK
def end_restore_file(): return bRC_OK
"#;

pub fn plugin(source: &str) -> Plugin {
    Plugin::new(&format!("{BASE}\n{source}"))
}

pub fn job(plugin: &Plugin, level: char) -> JobSpec {
    let mut job = spec(Task::Backup, vec![plugin.definition("")]);
    job.level = level;
    job.since = if level == 'F' { 0 } else { 2000 };
    job.previous_job_name = if level == 'F' { String::new() } else { "job.2026-11-21_00.00.00_06".to_owned() };
    job
}

/// A known file as `BASE` announces it.
pub fn known(name: &str) -> (&str, KnownFile) {
    let stat = StatFields { mode: 0o100_644, nlink: 1, size: 4, mtime: 1000, ctime: 1000, ..StatFields::default() };
    (name, KnownFile { stat, delta_sequence: 0 })
}

pub fn names(saved: &[Saved]) -> Vec<String> {
    saved.iter().map(|one| String::from_utf8_lossy(&one.entry.name).into_owned()).collect()
}

pub fn stored(definition: &str, index: i32, text: &[u8]) -> RestoreObject {
    RestoreObject {
        definition: definition.to_owned(),
        object_type: 25,
        object_index: index,
        object_name: format!("object {index}"),
        object: text.to_vec(),
        job_id: 6,
    }
}
