//! Jobs of the program `backstay` one after the other, of a plugin that reads from a file what there is to save.
#![allow(dead_code, unreachable_pub)]

use super::program::World;

/// A line of the file `files` is an object: its kind, its name, and its text (or its index). The restored entries and the
/// objects that came are logged.
const SOURCE: &str = r#"
import os
from bareosfd import *
state = {}
folder = os.path.dirname(__file__)
def out(*words):
    with open(folder + '/log', 'a') as file: print(*words, file=file)
KINDS = dict(file=FT_REG, old=FT_REG, delta=FT_REG, gone=FT_DELETED, object=FT_RESTORE_FIRST, config=FT_PLUGIN_CONFIG,
             link=FT_LNK, hard=FT_LNKSAVED, folder=FT_DIREND)
def load_bareos_plugin(text): out('since', GetValue(bVarSinceTime)); return bRC_OK
def parse_plugin_definition(text):
    out('parse', text)
    with open(folder + '/files') as file: state['files'] = iter(file.read().splitlines())
    return bRC_OK
def handle_plugin_event(event): return bRC_OK
def start_backup_file(packet):
    line = next(state['files'], None)
    if line is None: return bRC_Stop
    kind, name, text = line.split(' ', 2)
    packet.fname, packet.type = name, KINDS[kind]
    packet.statp = StatPacket(mode=0o100644, nlink=1)
    if kind in ('object', 'config'):
        packet.object_name, packet.object_index = name, int(text)
        packet.object = bytearray(name.encode() * 4000)
        packet.object_len = 4000
    elif kind in ('link', 'hard', 'folder'):
        packet.link, packet.no_read = text, True
    elif kind == 'old':
        packet.statp.st_mtime = packet.statp.st_ctime = 1
    elif kind == 'delta':
        packet.flags[28 >> 3] |= 1 << (28 & 7)
    state['data'] = text.encode()
    return bRC_OK
def end_backup_file(): return bRC_More
def plugin_io(iop):
    if iop.func == IO_READ:
        iop.buf = state['data']; state['data'] = b''
        iop.status = len(iop.buf)
    if iop.func == IO_WRITE:
        out('write', iop.buf.decode())
        iop.status = iop.count
    return bRC_OK
def get_acl(acl): return bRC_OK
def get_xattr(xattr): return bRC_OK
def set_acl(acl): return bRC_OK
def set_xattr(xattr): return bRC_OK
def check_file(name): out('check_file', name); return bRC_OK
def start_restore_file(cmd): return bRC_OK
def create_file(rp):
    out('create', rp.original_file_name, rp.type)
    out('names', rp.ofname, rp.olname or '-', repr(rp.where), repr(rp.regexwhere), repr(GetValue(bVarWhere)))
    rp.create_status = CF_EXTRACT if rp.type == FT_REG else CF_SKIP
    return bRC_OK
def set_file_attributes(rp): return bRC_OK
def end_restore_file(): return bRC_OK
def restore_object_data(rop):
    assert bytes(rop.object) == (rop.object_name.encode() * 4000)[:4000]
    out('object', rop.object_name, rop.object_index, rop.object_len, rop.jobid)
    return bRC_OK
"#;

/// A repository and the plugin.
pub struct Chain {
    pub world: World,
}

impl Chain {
    pub fn new() -> Self {
        let world = World::new();
        std::fs::create_dir(world.path("plugin")).unwrap();
        std::fs::write(world.path("plugin/chain.py"), SOURCE).unwrap();
        Self { world }
    }

    /// A job of this level that saves what these lines say, in a second of its own.
    pub fn backup(&self, level: &str, files: &str) {
        self.backup_by(level, "", files);
    }

    /// The same by a definition with these options.
    pub fn backup_by(&self, level: &str, options: &str, files: &str) {
        std::fs::write(self.world.path("plugin/files"), files).unwrap();
        let definition = format!("{}:{options}", self.definition());
        self.world.good(["backup", "--plugin", &definition, "--level", level]);
        self.world.wait_for_the_next_second();
    }

    /// Estimates what these lines say.
    pub fn estimate(&self, more: &[&str], files: &str) -> String {
        std::fs::write(self.world.path("plugin/files"), files).unwrap();
        let definition = format!("{}:", self.definition());
        self.world.good([&["estimate", "--plugin", &definition], more].concat())
    }

    /// Restores the newest snapshot through the plugin.
    pub fn restore(&self, more: &[&str]) {
        self.restore_to("out", more);
    }

    pub fn restore_to(&self, target: &str, more: &[&str]) {
        let _ = std::fs::remove_file(self.world.path("plugin/log"));
        self.world.good([&["restore", "latest", "--target", target, "--through-plugin"], more].concat());
    }

    fn definition(&self) -> String {
        format!("python3:module_path={}:module_name=chain", self.world.path("plugin").display())
    }

    /// The lines that the plugin logged.
    pub fn log(&self) -> Vec<String> {
        std::fs::read_to_string(self.world.path("plugin/log")).unwrap().lines().map(str::to_owned).collect()
    }

    /// Those that begin with this word.
    pub fn lines(&self, word: &str) -> Vec<String> {
        self.log().into_iter().filter(|line| line.split(' ').next() == Some(word)).collect()
    }
}
