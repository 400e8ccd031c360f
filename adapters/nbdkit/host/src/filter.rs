//! The port of filters: something between the clients and a plugin's disk.

use std::ffi::OsStr;
use std::sync::Arc;

use backstay_core::Disk;

use crate::plugin::Step;

/// A filter. The first on the command line is the one next to the clients.
///
/// The disk that it gets offers everything that a server makes up for ([`backstay_nbd::emulation`]): zeroing where it can be
/// written, FUA where it is offered at all, extents always.
pub trait Filter {
    /// Its name.
    fn name(&self) -> &'static str;

    /// What `--help` says of its parameters, in lines.
    fn help(&self) -> &'static str;

    /// Takes a parameter, or leaves it for the next filter and the plugin: whether it took it.
    ///
    /// # Errors
    /// Its value cannot be used.
    fn config(&mut self, key: &str, value: &OsStr) -> Step<bool>;

    /// There are no more parameters.
    ///
    /// # Errors
    /// One is missing, or they contradict each other.
    fn config_complete(&mut self) -> Step<()> {
        Ok(())
    }

    /// The last step before sockets and forks.
    ///
    /// # Errors
    /// It cannot serve.
    fn get_ready(&mut self) -> Step<()> {
        Ok(())
    }

    /// Puts itself in front of a disk; in the process that serves, so threads that it starts now stay.
    ///
    /// # Errors
    /// It cannot serve.
    fn wrap(self: Box<Self>, disk: Arc<dyn Disk>) -> Step<Arc<dyn Disk>>;
}
