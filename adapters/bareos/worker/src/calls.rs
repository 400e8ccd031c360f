//! plugin_io, get_acl, get_xattr and their like: the packets that both directions use.

use backstay_bareos_protocol::FileOffer;
use backstay_bareos_protocol::prior::RestoreObject;
use backstay_python_runtime::Record;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyString};

use crate::changes::Checked;
use crate::names;
use crate::packets::{acl, classes, io, restore, restore_object, save, stat_packet, xattr};
use crate::script::{Answer, Script};

/// Name and value of an extended attribute.
pub(crate) type Attribute = (Vec<u8>, Vec<u8>);

/// What one plugin_io call came to.
#[derive(Debug)]
pub(crate) struct IoResult<'py> {
    pub(crate) answer: Answer,
    /// -1 if the callback raised.
    pub(crate) status: i64,
    pub(crate) errno: i32,
    /// The packet as the plugin left it.
    pub(crate) packet: Record<'py>,
}

/// How an IO_OPEN ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// The plugin moves the bytes.
    InPlugin,
    /// The core reads from or writes to this descriptor.
    InCore(i32),
    /// It failed with this `io_errno`.
    Failed(i32),
}

/// Calls plugin_io with a packet that `fill` completes.
pub(crate) fn plugin_io<'py>(
    py: Python<'py>,
    script: &Script,
    function: i64,
    fill: impl FnOnce(&Record<'py>),
) -> PyResult<IoResult<'py>> {
    let packet = classes(py)?.io.make(py)?;
    packet.set_integer(io::FUNC, function);
    packet.set_integer(io::FILEDES, 0);
    fill(&packet);
    let answer = script.call(py, intern!(py, "plugin_io"), (packet.as_any(),));
    let status = if answer == Answer::Raised { -1 } else { packet.integer(io::STATUS) };
    Ok(IoResult { answer, status, errno: errno(&packet), packet })
}

fn errno(packet: &Record<'_>) -> i32 {
    i32::try_from(packet.integer(io::IO_ERRNO)).unwrap_or(0)
}

/// IO_OPEN and what its answer means (reference 5.1).
pub(crate) fn open<'py>(
    py: Python<'py>,
    script: &Script,
    name: &Bound<'py, PyAny>,
    flags: i32,
    mode: i32,
) -> PyResult<Opened> {
    let result = plugin_io(py, script, crate::constants::io::OPEN, |packet| {
        packet.set_object(io::FNAME, Some(name.clone()));
        packet.set_integer(io::FLAGS, flags.into());
        packet.set_integer(io::MODE, mode.into());
        packet.set_integer(io::FILEDES, -1);
    })?;
    let descriptor = i32::try_from(result.packet.integer(io::FILEDES)).unwrap_or(-1);
    Ok(match result.status {
        _ if result.answer.rc() == crate::constants::rc::ERROR => Opened::Failed(result.errno),
        status if status < 0 => Opened::Failed(result.errno),
        crate::constants::io::DO_IN_CORE if descriptor < 0 => Opened::Failed(result.errno),
        crate::constants::io::DO_IN_CORE => Opened::InCore(descriptor),
        _ => Opened::InPlugin,
    })
}

/// IO_CLOSE. Its result counts for nothing.
pub(crate) fn close(py: Python<'_>, script: &Script, opened: Opened) -> PyResult<()> {
    plugin_io(py, script, crate::constants::io::CLOSE, |packet| {
        if let Opened::InCore(descriptor) = opened {
            packet.set_integer(io::FILEDES, descriptor.into());
        }
    })?;
    Ok(())
}

/// A SavePacket before start_backup_file (reference 3.3).
pub(crate) fn save_packet<'py>(
    py: Python<'py>,
    command: &Bound<'py, PyString>,
    flags: [u8; 5],
) -> PyResult<Record<'py>> {
    let packet = classes(py)?.save.make(py)?;
    let empty = intern!(py, "");
    packet.set_object(save::FNAME, Some(empty.clone().into_any()));
    packet.set_object(save::LINK, Some(empty.clone().into_any()));
    packet.set_object(save::FLAGS, Some(PyByteArray::new(py, &flags).into_any()));
    packet.set_integer(save::PORTABLE, 1);
    packet.set_object(save::CMD, Some(command.clone().into_any()));
    Ok(packet)
}

/// A SavePacket before handle_backup_file (reference 3.8).
pub(crate) fn offer_packet<'py>(
    py: Python<'py>,
    command: &Bound<'py, PyString>,
    flags: [u8; 5],
    offer: &FileOffer,
    checked: &Checked,
) -> PyResult<Record<'py>> {
    let packet = save_packet(py, command, flags)?;
    packet.set_object(save::FNAME, Some(names::to_python(py, &offer.name)?.into_any()));
    packet.set_object(save::LINK, Some(names::to_python(py, &offer.link)?.into_any()));
    let stat = if offer.stat.mode == 0 { None } else { Some(stat_packet(py, &offer.stat)?) };
    packet.set_object(save::STATP, stat);
    packet.set_integer(save::TYPE, offer.file_type.into());
    packet.set_integer(save::DELTA_SEQ, checked.delta_sequence.into());
    packet.set_integer(save::ACCURATE_FOUND, checked.found.into());
    Ok(packet)
}

/// get_acl: what the plugin wants stored, if anything; `Err` is a non-OK rc.
pub(crate) fn get_acl<'py>(
    py: Python<'py>,
    script: &Script,
    name: &Bound<'py, PyAny>,
) -> PyResult<Result<Option<Vec<u8>>, Answer>> {
    let packet = classes(py)?.acl.make(py)?;
    packet.set_object(acl::FNAME, Some(name.clone()));
    let answer = script.call(py, intern!(py, "get_acl"), (packet.as_any(),));
    if answer == Answer::Raised {
        return Ok(Err(answer));
    }
    let content = match packet.value(acl::CONTENT) {
        None => None,
        Some(content) => match content.cast::<PyByteArray>() {
            Ok(array) => Some(array.to_vec()),
            Err(_) => return Err(PyTypeError::new_err("acl packet content needs to be of bytearray type")),
        },
    };
    Ok(if answer.is_ok() { Ok(content.filter(|content| !content.is_empty())) } else { Err(answer) })
}

/// One call of get_xattr: rc, and the attribute if it has a name.
pub(crate) fn get_xattr<'py>(
    py: Python<'py>,
    script: &Script,
    name: &Bound<'py, PyAny>,
) -> PyResult<(Answer, Option<Attribute>)> {
    let packet = classes(py)?.xattr.make(py)?;
    packet.set_object(xattr::FNAME, Some(name.clone()));
    let answer = script.call(py, intern!(py, "get_xattr"), (packet.as_any(),));
    let array = |field| match packet.value(field) {
        Some(value) => value.cast::<PyByteArray>().map(pyo3::types::PyByteArrayMethods::to_vec).unwrap_or_default(),
        None => Vec::new(),
    };
    let attribute_name = array(xattr::NAME);
    let attribute = (!attribute_name.is_empty()).then(|| (attribute_name, array(xattr::VALUE)));
    Ok((answer, attribute))
}

/// set_acl.
pub(crate) fn set_acl<'py>(
    py: Python<'py>,
    script: &Script,
    name: &Bound<'py, PyAny>,
    content: &[u8],
) -> PyResult<Answer> {
    let packet = classes(py)?.acl.make(py)?;
    packet.set_object(acl::FNAME, Some(name.clone()));
    packet.set_object(acl::CONTENT, Some(PyByteArray::new(py, content).into_any()));
    Ok(script.call(py, intern!(py, "set_acl"), (packet.as_any(),)))
}

/// set_xattr.
pub(crate) fn set_xattr<'py>(
    py: Python<'py>,
    script: &Script,
    name: &Bound<'py, PyAny>,
    attribute: &Attribute,
) -> PyResult<Answer> {
    let packet = classes(py)?.xattr.make(py)?;
    packet.set_object(xattr::FNAME, Some(name.clone()));
    packet.set_object(xattr::NAME, Some(PyByteArray::new(py, &attribute.0).into_any()));
    if !attribute.1.is_empty() {
        packet.set_object(xattr::VALUE, Some(PyByteArray::new(py, &attribute.1).into_any()));
    }
    Ok(script.call(py, intern!(py, "set_xattr"), (packet.as_any(),)))
}

/// restore_object_data (reference 6.3).
pub(crate) fn restore_object_data<'py>(py: Python<'py>, script: &Script, object: &RestoreObject) -> PyResult<Answer> {
    let packet = classes(py)?.restore_object.make(py)?;
    let length = i64::try_from(object.object.len()).unwrap_or(i64::MAX);
    packet.set_object(restore_object::OBJECT_NAME, Some(PyString::new(py, &object.object_name).into_any()));
    packet.set_object(restore_object::OBJECT, Some(PyByteArray::new(py, &object.object).into_any()));
    packet.set_text(restore_object::PLUGIN_NAME, &object.definition);
    packet.set_integer(restore_object::OBJECT_TYPE, object.object_type.into());
    packet.set_integer(restore_object::OBJECT_LEN, length);
    packet.set_integer(restore_object::OBJECT_FULL_LEN, length);
    packet.set_integer(restore_object::OBJECT_INDEX, object.object_index.into());
    packet.set_integer(restore_object::JOBID, object.job_id.into());
    Ok(script.call(py, intern!(py, "restore_object_data"), (packet.as_any(),)))
}

/// A RestorePacket (reference 2.7); `where_prefix` is `rp.where`, none where rules make the names.
pub(crate) fn restore_packet<'py>(
    py: Python<'py>,
    entry: &backstay_bareos_protocol::RestoreEntry,
    where_prefix: Option<&str>,
    replace: char,
) -> PyResult<Record<'py>> {
    use crate::constants::{ft, option_bit};
    let packet = classes(py)?.restore.make(py)?;
    let saved = &entry.entry;
    let sparse = option_bit::is_on(saved.flags, option_bit::SPARSE);
    packet.set_integer(restore::STREAM, 1);
    packet.set_integer(restore::DATA_STREAM, if sparse { 6 } else { 2 });
    packet.set_integer(restore::TYPE, saved.file_type.into());
    packet.set_integer(restore::FILE_INDEX, saved.file_index.into());
    packet.set_integer(restore::LINK_FI, saved.link_file_index.into());
    packet.set_object(restore::STATP, Some(crate::packets::stat_packet(py, &saved.stat)?));
    packet.set_text(restore::ATTR_EX, "");
    packet.set_object(restore::OFNAME, Some(names::to_python(py, &entry.output_name)?));
    // Only links are stored with what they point to (reference 6.1).
    let is_link = matches!(saved.file_type, ft::LNK | ft::LNKSAVED | ft::JUNCTION);
    let link = |link| if is_link { names::to_python(py, link) } else { Ok(intern!(py, "").clone().into_any()) };
    packet.set_object(restore::OLNAME, Some(link(&entry.output_link)?));
    if let Some(prefix) = where_prefix {
        packet.set_text(restore::WHERE, prefix);
    }
    packet.set_integer(restore::REPLACE, i64::from(u32::from(replace)));
    packet.set_integer(restore::CREATE_STATUS, crate::constants::cf::ERROR);
    packet.set_integer(restore::FILEDES, -1);
    packet.set_object(restore::ORIGINAL_FILE_NAME, Some(names::to_python(py, &saved.name)?));
    packet.set_object(restore::ORIGINAL_LINK_NAME, Some(link(&saved.link)?));
    Ok(packet)
}
