//! Plugins that announce one object after the other, with the bytes of each, and log what they are asked.
#![allow(dead_code, unreachable_pub)]

use super::{Outcome, Plugin, Saved, backup};

/// What every plugin below starts with: one object after the other from `objects()`, as (name, type, fields, data).
pub const BASE: &str = r#"
import os, sys
import bareosfd
from bareosfd import *
from probe import out
state = {}
def load_bareos_plugin(text): return bRC_OK
def parse_plugin_definition(text): state['objects'] = None; state['options'] = text; return bRC_OK
def handle_plugin_event(event): out('event', event); return bRC_OK
def objects(): yield '/f', FT_REG, {}, b'data'
def start_backup_file(packet):
    if state['objects'] is None: state['objects'] = iter(objects())
    found = next(state['objects'], None)
    if found is None: return bRC_Stop
    out('start', found[0])
    packet.fname, packet.type = found[0], found[1]
    packet.statp = StatPacket(mode=0o100644, nlink=1)
    for name, value in found[2].items():
        setattr(packet.statp if name.startswith('st_') else packet, name, value)
    state['data'] = found[3]
    packet.no_read = packet.no_read or found[3] is None
    return bRC_OK
def end_backup_file(): out('end'); return bRC_More
def plugin_io(iop):
    if iop.func == IO_READ:
        iop.buf = bytearray(state['data'][:iop.count]); state['data'] = state['data'][iop.count:]
        iop.status = len(iop.buf)
    elif iop.func == IO_WRITE:
        iop.status = iop.count
        state.setdefault('written', bytearray()).extend(iop.buf)
    out('io', iop.func)
    return bRC_OK
def get_acl(acl): out('get_acl', acl.fname); return bRC_OK
def get_xattr(xattr): out('get_xattr', xattr.fname); return bRC_OK
def set_acl(acl): out('set_acl', acl.fname, bytes(acl.content)); return bRC_OK
def set_xattr(x): out('set_xattr', bytes(x.name), x.value if x.value is None else bytes(x.value)); return bRC_OK
def start_restore_file(cmd): out('start_restore', cmd); return bRC_OK
def create_file(rp): out('create', rp.ofname); rp.create_status = CF_EXTRACT; return bRC_OK
def set_file_attributes(rp): out('attributes', rp.ofname); return bRC_OK
def end_restore_file(): out('end_restore'); return bRC_OK
"#;

pub fn plugin(source: &str) -> Plugin {
    Plugin::new(&format!("{BASE}\n{source}"))
}

pub fn run(plugin: &Plugin) -> Outcome {
    backup(&plugin.definition(""))
}

/// The lines of the log whose first word is one of these.
pub fn lines(plugin: &Plugin, words: &[&str]) -> Vec<String> {
    plugin.log().into_iter().filter(|line| words.contains(&line.split(' ').next().unwrap())).collect()
}

pub fn failed(outcome: &Outcome) -> &str {
    assert!(!outcome.end().whole, "{outcome:#?}");
    &outcome.end().reason
}

pub fn one_file(plugin: &Plugin) -> Vec<Saved> {
    let mut saved = run(plugin).good().saved;
    saved[0].acls = vec![b"acl".to_vec()];
    saved[0].xattrs = vec![(b"n1".to_vec(), b"v".to_vec()), (b"n2".to_vec(), Vec::new())];
    plugin.forget_log();
    saved
}
