//! The seven classes of the module (reference 2.7): their fields, defaults and `repr` texts.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use backstay_bareos_protocol::StatFields;
use backstay_python_runtime::{Field, Kind, Record, RecordSpec, RecordType};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyString};

/// The permission bits of a mode, as the repr texts show them.
const PERMISSIONS: i64 = 0o7777;
/// What `SavePacket.flags` shows of its forty bits.
const SHOWN_FLAGS: usize = 34;

macro_rules! fields {
    ($module:ident { $($constant:ident $name:literal $kind:ident),+ $(,)? }) => {
        #[allow(missing_docs, dead_code)]
        pub(crate) mod $module {
            use super::{Field, Kind};
            #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
            enum Position { $($constant),+ }
            $(pub(crate) const $constant: usize = Position::$constant as usize;)+
            pub(super) const FIELDS: &[Field] = &[$(Field { name: $name, kind: Kind::$kind }),+];
        }
    };
}

fields!(stat { DEV c"st_dev" U32, INO c"st_ino" U64, MODE c"st_mode" U16, NLINK c"st_nlink" U16, UID c"st_uid" U32,
    GID c"st_gid" U32, RDEV c"st_rdev" U32, SIZE c"st_size" U64, ATIME c"st_atime" I64, MTIME c"st_mtime" I64,
    CTIME c"st_ctime" I64, BLKSIZE c"st_blksize" U32, BLOCKS c"st_blocks" U64 });
fields!(save { FNAME c"fname" Object, LINK c"link" Object, STATP c"statp" Object, TYPE c"type" I32,
    FLAGS c"flags" Object, NO_READ c"no_read" Bool, PORTABLE c"portable" Bool, ACCURATE_FOUND c"accurate_found" Bool,
    CMD c"cmd" Text, SAVE_TIME c"save_time" U32, DELTA_SEQ c"delta_seq" U32, OBJECT_NAME c"object_name" Object,
    OBJECT c"object" Object, OBJECT_LEN c"object_len" I32, OBJECT_INDEX c"object_index" I32 });
fields!(restore { STREAM c"stream" I32, DATA_STREAM c"data_stream" I32, TYPE c"type" I32, FILE_INDEX c"file_index" I32,
    LINK_FI c"linkFI" I32, UID c"uid" U32, STATP c"statp" Object, ATTR_EX c"attrEX" Text, OFNAME c"ofname" Text,
    OLNAME c"olname" Text, WHERE c"where" Text, REGEXWHERE c"regexwhere" Text, REPLACE c"replace" I32,
    CREATE_STATUS c"create_status" I32, FILEDES c"filedes" I32, ORIGINAL_FILE_NAME c"original_file_name" Text,
    ORIGINAL_LINK_NAME c"original_link_name" Text });
fields!(io { FUNC c"func" U16, COUNT c"count" I32, FLAGS c"flags" I32, MODE c"mode" I32, BUF c"buf" Object,
    FNAME c"fname" Text, STATUS c"status" I32, IO_ERRNO c"io_errno" I32, LERROR c"lerror" I32, WHENCE c"whence" I32,
    OFFSET c"offset" I64, WIN32 c"win32" Bool, FILEDES c"filedes" I32 });
fields!(acl { FNAME c"fname" Text, CONTENT c"content" Object });
fields!(xattr { FNAME c"fname" Text, NAME c"name" Object, VALUE c"value" Object });
fields!(restore_object { OBJECT_NAME c"object_name" Object, OBJECT c"object" Object, PLUGIN_NAME c"plugin_name" Text,
    OBJECT_TYPE c"object_type" I32, OBJECT_LEN c"object_len" I32, OBJECT_FULL_LEN c"object_full_len" I32,
    OBJECT_INDEX c"object_index" I32, OBJECT_COMPRESSION c"object_compression" I32, STREAM c"stream" I32,
    JOBID c"jobid" U32 });

static STAT_SPEC: RecordSpec = RecordSpec {
    name: c"stat_pkt",
    fields: stat::FIELDS,
    positional: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    keyword_prefix: "st_",
    mask: true,
    defaults: |packet| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs().cast_signed());
        packet.set_integer(stat::MODE, 0o100_700);
        packet.set_integer(stat::SIZE, -1);
        for field in [stat::ATIME, stat::MTIME, stat::CTIME] {
            packet.set_integer(field, now);
        }
        packet.set_integer(stat::BLKSIZE, 4096);
        packet.set_integer(stat::BLOCKS, 1);
    },
    repr: |packet| {
        let n = |field| packet.integer(field);
        Ok(format!(
            "StatPacket(dev={}, ino={}, mode={:04o}, nlink={}, uid={}, gid={}, rdev={}, size={}, atime={}, mtime={}, \
             ctime={}, blksize={}, blocks={})",
            n(stat::DEV),
            packet.unsigned(stat::INO),
            n(stat::MODE) & PERMISSIONS,
            n(stat::NLINK),
            n(stat::UID),
            n(stat::GID),
            n(stat::RDEV),
            packet.unsigned(stat::SIZE),
            n(stat::ATIME),
            n(stat::MTIME),
            n(stat::CTIME),
            n(stat::BLKSIZE),
            packet.unsigned(stat::BLOCKS),
        ))
    },
};

static SAVE_SPEC: RecordSpec = RecordSpec {
    name: c"save_pkt",
    fields: save::FIELDS,
    positional: &[
        save::FNAME,
        save::LINK,
        save::TYPE,
        save::FLAGS,
        save::NO_READ,
        save::PORTABLE,
        save::ACCURATE_FOUND,
        save::CMD,
        save::SAVE_TIME,
        save::DELTA_SEQ,
        save::OBJECT_NAME,
        save::OBJECT,
        save::OBJECT_LEN,
        save::OBJECT_INDEX,
    ],
    keyword_prefix: "",
    mask: false,
    defaults: |_| {},
    repr: |packet| {
        let n = |field| packet.integer(field);
        Ok(format!(
            "SavePacket(fname=\"{}\", link=\"{}\", type={}, flags={}, no_read={}, portable={}, accurate_found={}, \
             cmd=\"{}\", save_time={}, delta_seq={}, object_name=\"{}\", object=\"{}\", object_len={}, object_index={})",
            string(packet, save::FNAME),
            string(packet, save::LINK),
            n(save::TYPE),
            flags(packet),
            n(save::NO_READ),
            n(save::PORTABLE),
            n(save::ACCURATE_FOUND),
            text(packet, save::CMD),
            n(save::SAVE_TIME),
            n(save::DELTA_SEQ),
            string(packet, save::OBJECT_NAME),
            bytes(packet, save::OBJECT),
            n(save::OBJECT_LEN),
            n(save::OBJECT_INDEX),
        ))
    },
};

static RESTORE_SPEC: RecordSpec = RecordSpec {
    name: c"restore_pkt",
    fields: restore::FIELDS,
    positional: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    keyword_prefix: "",
    mask: false,
    defaults: |packet| packet.set_integer(restore::FILEDES, -1),
    repr: |packet| {
        let n = |field| packet.integer(field);
        let statp = match packet.value(restore::STATP) {
            Some(statp) => statp.repr()?.to_string_lossy().into_owned(),
            None => "<NULL>".to_owned(),
        };
        Ok(format!(
            "RestorePacket(stream={}, data_stream={}, type={}, file_index={}, linkFI={}, uid={}, statp=\"{statp}\", \
             attrEx=\"{}\", ofname=\"{}\", olname=\"{}\", where=\"{}\", RegexWhere=\"{}\", replace={}, \
             create_status={}, original_file_name=\"{}\", original_link_name=\"{}\")",
            n(restore::STREAM),
            n(restore::DATA_STREAM),
            n(restore::TYPE),
            n(restore::FILE_INDEX),
            n(restore::LINK_FI),
            n(restore::UID),
            text(packet, restore::ATTR_EX),
            text(packet, restore::OFNAME),
            text(packet, restore::OLNAME),
            text(packet, restore::WHERE),
            text(packet, restore::REGEXWHERE),
            n(restore::REPLACE),
            n(restore::CREATE_STATUS),
            text(packet, restore::ORIGINAL_FILE_NAME),
            text(packet, restore::ORIGINAL_LINK_NAME),
        ))
    },
};

static IO_SPEC: RecordSpec = RecordSpec {
    name: c"io_pkt",
    fields: io::FIELDS,
    positional: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    keyword_prefix: "",
    mask: false,
    defaults: |packet| packet.set_integer(io::FILEDES, -1),
    repr: |packet| {
        let n = |field| packet.integer(field);
        Ok(format!(
            "IoPacket(func={}, count={}, flags={}, mode={:04o}, buf=\"{}\", fname=\"{}\", status={}, io_errno={}, \
             lerror={}, whence={}, offset={}, win32={}, filedes={})",
            n(io::FUNC),
            n(io::COUNT),
            n(io::FLAGS),
            n(io::MODE) & PERMISSIONS,
            bytes(packet, io::BUF),
            text(packet, io::FNAME),
            n(io::STATUS),
            n(io::IO_ERRNO),
            n(io::LERROR),
            n(io::WHENCE),
            n(io::OFFSET),
            n(io::WIN32),
            n(io::FILEDES),
        ))
    },
};

static ACL_SPEC: RecordSpec = RecordSpec {
    name: c"acl_pkt",
    fields: acl::FIELDS,
    positional: &[0, 1],
    keyword_prefix: "",
    mask: false,
    defaults: |_| {},
    repr: |packet| {
        Ok(format!("AclPacket(fname=\"{}\", content=\"{}\")", text(packet, acl::FNAME), bytes(packet, acl::CONTENT)))
    },
};

static XATTR_SPEC: RecordSpec = RecordSpec {
    name: c"xattr_pkt",
    fields: xattr::FIELDS,
    positional: &[0, 1, 2],
    keyword_prefix: "",
    mask: false,
    defaults: |_| {},
    repr: |packet| {
        Ok(format!(
            "XattrPacket(fname=\"{}\", name=\"{}\", value=\"{}\")",
            text(packet, xattr::FNAME),
            bytes(packet, xattr::NAME),
            bytes(packet, xattr::VALUE)
        ))
    },
};

static RESTORE_OBJECT_SPEC: RecordSpec = RecordSpec {
    name: c"restore_object",
    fields: restore_object::FIELDS,
    positional: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    keyword_prefix: "",
    mask: false,
    defaults: |_| {},
    repr: |packet| {
        let n = |field| packet.integer(field);
        Ok(format!(
            "RestoreObject(object_name=\"{}\", object=\"{}\", plugin_name=\"{}\", object_type={}, object_len={}, \
             object_full_len={}, object_index={}, object_compression={}, stream={}, jobid={})",
            string(packet, restore_object::OBJECT_NAME),
            bytes(packet, restore_object::OBJECT),
            text(packet, restore_object::PLUGIN_NAME),
            n(restore_object::OBJECT_TYPE),
            n(restore_object::OBJECT_LEN),
            n(restore_object::OBJECT_FULL_LEN),
            n(restore_object::OBJECT_INDEX),
            n(restore_object::OBJECT_COMPRESSION),
            n(restore_object::STREAM),
            n(restore_object::JOBID),
        ))
    },
};

/// A C string member: what scripts cannot set.
fn text(packet: &Record<'_>, field: usize) -> String {
    match packet.value(field) {
        Some(value) => lossy(&value),
        None => "(null)".to_owned(),
    }
}

/// A `str` in an object member; anything else shows as nothing.
fn string(packet: &Record<'_>, field: usize) -> String {
    packet
        .value(field)
        .filter(pyo3::types::PyAnyMethods::is_instance_of::<PyString>)
        .map_or_else(String::new, |value| lossy(&value))
}

/// A `bytearray` in an object member, up to its first NUL; anything else shows as nothing.
fn bytes(packet: &Record<'_>, field: usize) -> String {
    let Some(value) = packet.value(field) else { return String::new() };
    let Ok(array) = value.cast::<PyByteArray>() else { return String::new() };
    let bytes = array.to_vec();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn lossy(value: &Bound<'_, PyAny>) -> String {
    value.cast::<PyString>().map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
}

fn flags(packet: &Record<'_>) -> String {
    let Some(value) = packet.value(save::FLAGS) else { return "<NULL>".to_owned() };
    let Ok(array) = value.cast::<PyByteArray>() else { return "Unknown".to_owned() };
    let bytes = array.to_vec();
    if bytes.len() != 5 {
        return "Unknown".to_owned();
    }
    (0..SHOWN_FLAGS).map(|bit| if bytes[bit / 8] & (1 << (bit % 8)) == 0 { '0' } else { '1' }).collect()
}

/// The classes, once they exist.
#[derive(Debug)]
pub(crate) struct Classes {
    pub(crate) stat: &'static RecordType,
    pub(crate) save: &'static RecordType,
    pub(crate) restore: &'static RecordType,
    pub(crate) io: &'static RecordType,
    pub(crate) acl: &'static RecordType,
    pub(crate) xattr: &'static RecordType,
    pub(crate) restore_object: &'static RecordType,
}

static CLASSES: OnceLock<Classes> = OnceLock::new();

/// The classes; made on the first call.
pub(crate) fn classes(py: Python<'_>) -> PyResult<&'static Classes> {
    if let Some(classes) = CLASSES.get() {
        return Ok(classes);
    }
    let made = Classes {
        stat: RecordType::new(py, &STAT_SPEC)?,
        save: RecordType::new(py, &SAVE_SPEC)?,
        restore: RecordType::new(py, &RESTORE_SPEC)?,
        io: RecordType::new(py, &IO_SPEC)?,
        acl: RecordType::new(py, &ACL_SPEC)?,
        xattr: RecordType::new(py, &XATTR_SPEC)?,
        restore_object: RecordType::new(py, &RESTORE_OBJECT_SPEC)?,
    };
    // Another thread may have been first: its classes count then.
    Ok(CLASSES.get_or_init(|| made))
}

impl Classes {
    /// The classes by the names under which the module exports them.
    pub(crate) fn exported(&self) -> [(&'static str, &'static RecordType); 7] {
        [
            ("StatPacket", self.stat),
            ("SavePacket", self.save),
            ("RestorePacket", self.restore),
            ("IoPacket", self.io),
            ("AclPacket", self.acl),
            ("XattrPacket", self.xattr),
            ("RestoreObject", self.restore_object),
        ]
    }
}

/// The integers of a StatPacket.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn stat_fields(packet: &Record<'_>) -> StatFields {
    let n = |field| packet.integer(field);
    StatFields {
        dev: n(stat::DEV) as u32,
        ino: packet.unsigned(stat::INO),
        mode: n(stat::MODE) as u16,
        nlink: n(stat::NLINK) as u16,
        uid: n(stat::UID) as u32,
        gid: n(stat::GID) as u32,
        rdev: n(stat::RDEV) as u32,
        size: packet.unsigned(stat::SIZE),
        atime: n(stat::ATIME),
        mtime: n(stat::MTIME),
        ctime: n(stat::CTIME),
        blksize: n(stat::BLKSIZE) as u32,
        blocks: packet.unsigned(stat::BLOCKS),
    }
}

/// A StatPacket with these integers.
pub(crate) fn stat_packet<'py>(py: Python<'py>, fields: &StatFields) -> PyResult<Bound<'py, PyAny>> {
    let packet = classes(py)?.stat.make(py)?;
    packet.set_integer(stat::DEV, fields.dev.into());
    packet.set_integer(stat::INO, fields.ino.cast_signed());
    packet.set_integer(stat::MODE, fields.mode.into());
    packet.set_integer(stat::NLINK, fields.nlink.into());
    packet.set_integer(stat::UID, fields.uid.into());
    packet.set_integer(stat::GID, fields.gid.into());
    packet.set_integer(stat::RDEV, fields.rdev.into());
    packet.set_integer(stat::SIZE, fields.size.cast_signed());
    packet.set_integer(stat::ATIME, fields.atime);
    packet.set_integer(stat::MTIME, fields.mtime);
    packet.set_integer(stat::CTIME, fields.ctime);
    packet.set_integer(stat::BLKSIZE, fields.blksize.into());
    packet.set_integer(stat::BLOCKS, fields.blocks.cast_signed());
    Ok(packet.as_any().clone())
}
