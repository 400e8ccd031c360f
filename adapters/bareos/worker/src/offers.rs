//! Option plugins: files of the host's walk, offered to the plugin before the core saves them (reference 3.8).

use backstay_bareos_protocol::{Failure, FileOffer, FromWorker, Handled, PluginEntry};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::backup::{Backup, Saved, Trouble, flags_left, unexpected};
use crate::calls;
use crate::changes::{self, Checked};
use crate::constants::{event, ft, option_bit, rc};
use crate::context::HostGone;
use crate::link::Incoming;
use crate::names;
use crate::packets::save;
use crate::script::Answer;

impl Backup<'_> {
    /// Answers for each file that the walk offers, until it is over.
    pub(crate) fn offers(&mut self, py: Python<'_>) -> Result<(), HostGone> {
        if self.context.spec.option_lines == 0 {
            return Ok(());
        }
        while !self.context.is_stopped() {
            match self.link.wait(py)? {
                Incoming::File(offer) => match self.offer(py, &offer) {
                    Ok(()) => {}
                    Err(Trouble::Gone(gone)) => return Err(gone),
                    Err(Trouble::Python(error)) => {
                        // Not the plugin's doing: memory, or an interpreter that is broken.
                        let message = self.script.report(py, &error);
                        self.handled(Handled::Failed(Failure { errno: 0, message }))?;
                    }
                },
                Incoming::EndFiles => return Ok(()),
                Incoming::Consumed(position) => self.consumed(position)?,
                Incoming::Cancelled => {}
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    fn handled(&self, handled: Handled) -> Result<(), HostGone> {
        self.context.send(&FromWorker::Handled(handled))
    }

    fn offer(&mut self, py: Python<'_>, offer: &FileOffer) -> Result<(), Trouble> {
        let context = self.context;
        context.set_line(offer.definition);
        let flags = context.spec.flags(offer.definition);
        let mut checked = Checked::default();
        if context.spec.level != 'F' {
            checked = changes::check(context, stored_name(offer), &offer.stat, 0, self.looks_at_mtime_only());
            // What an earlier job did not take from the plugin stays with nobody: the plugin is asked again.
            let is_known = context.known().is_some_and(|known| known.mark(stored_name(offer), true));
            if is_known && checked.unchanged {
                return Ok(self.handled(Handled::Unchanged)?);
            }
        }
        if !self.script.is_loaded() || !context.delivers(event::HANDLE_BACKUP_FILE) {
            return Ok(self.handled(Handled::Core)?);
        }
        let definition = context.spec.definitions.get(offer.definition as usize);
        let command = PyString::new(py, definition.map_or("", String::as_str));
        let packet = calls::offer_packet(py, &command, flags, offer, &checked)?;
        let answer = self.script.call(py, intern!(py, "handle_backup_file"), (packet.as_any(),));
        let flags = match flags_left(&packet) {
            Ok(flags) => flags,
            Err(error) => {
                let message = self.script.report(py, &error);
                return Ok(self.handled(Handled::Failed(Failure { errno: 0, message }))?);
            }
        };
        match answer.rc() {
            rc::OK => self.take(py, offer, flags, packet.integer(save::DELTA_SEQ)),
            rc::SKIP => Ok(self.handled(Handled::Skip)?),
            rc::CORE => Ok(self.handled(Handled::Core)?),
            code => {
                let name = names::shown(&offer.name);
                let message = match answer {
                    Answer::Raised => format!("{name}: handle_backup_file raised an exception"),
                    Answer::Missing => format!("{name}: the plugin has no function handle_backup_file"),
                    _ => format!("{name}: handle_backup_file answered {code}"),
                };
                Ok(self.handled(Handled::Failed(Failure { errno: 0, message }))?)
            }
        }
    }

    /// The file is a plugin file from now on.
    fn take(&mut self, py: Python<'_>, offer: &FileOffer, flags: [u8; 5], sequence: i64) -> Result<(), Trouble> {
        let is_delta = option_bit::is_on(flags, option_bit::DELTA);
        let has_data = match offer.file_type {
            ft::REG => offer.stat.size > 0,
            ft::RAW | ft::FIFO => true,
            _ => false,
        };
        let fname = names::to_python(py, &offer.name)?;
        let fname = fname.cast_into::<PyString>().map_err(|_| PyRuntimeError::new_err("a name that is no text"))?;
        let entry = PluginEntry {
            definition: offer.definition,
            file_index: self.next_file_index(),
            file_type: offer.file_type,
            name: stored_name(offer).to_vec(),
            link: offer.link.clone(),
            link_file_index: 0,
            stat: offer.stat,
            flags,
            delta_sequence: if is_delta { u32::try_from(sequence + 1).unwrap_or(u32::MAX) } else { 0 },
            no_read: !has_data,
        };
        let mut saved = Saved { file_type: offer.file_type, fname, entry, save_time: 0, object: None };
        self.link_names(&mut saved);
        self.context.send(&FromWorker::Entry(Box::new(saved.entry.clone())))?;
        let result = self.contents(py, &saved)?;
        Ok(self.context.send(&FromWorker::EndEntry(result))?)
    }
}

/// The name under which it is stored: that of a directory has a slash at its end.
fn stored_name(offer: &FileOffer) -> &[u8] {
    if offer.file_type == ft::DIREND { &offer.link } else { &offer.name }
}
