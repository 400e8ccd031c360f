//! The port of plugins: what a server process is configured with, and then serves (reference 1).

use std::ffi::OsStr;
use std::io;
use std::process::Command;
use std::sync::Arc;

use backstay_core::{Disk, ThreadModel};

use crate::process::{self, Forked};

/// Why the process ends early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With this status; everything was said.
    Status(u8),
    /// With status 1 and this line.
    Line(String),
}

impl From<String> for End {
    fn from(line: String) -> Self {
        Self::Line(line)
    }
}

/// A step of the way to serving.
pub type Step<T> = Result<T, End>;

/// A plugin. Its methods are called once each, in the order in which they stand here; `config` for every parameter.
///
/// What fails before the server serves ends the process; see [`End`].
pub trait Plugin {
    /// Its name, in messages too.
    fn name(&self) -> &'static str;

    /// The key that a bare first argument stands for; none: it may not be bare.
    fn magic(&self) -> Option<&'static str> {
        None
    }

    /// What `--help` says of its parameters, in lines.
    fn help(&self) -> &'static str {
        ""
    }

    /// The first thing it does, when the standard streams are what they stay until it serves.
    ///
    /// # Errors
    /// It cannot start.
    fn load(&mut self) -> Step<()> {
        Ok(())
    }

    /// One parameter of the command line.
    ///
    /// # Errors
    /// It is none of the plugin's, or its value cannot be used.
    fn config(&mut self, key: &str, value: &OsStr) -> Step<()>;

    /// There are no more parameters.
    ///
    /// # Errors
    /// One is missing, or they contradict each other.
    fn config_complete(&mut self) -> Step<()>;

    /// How many calls it can bear at a time.
    ///
    /// # Errors
    /// It does not say.
    fn thread_model(&mut self) -> Step<ThreadModel>;

    /// The last step before sockets and forks.
    ///
    /// # Errors
    /// It cannot serve.
    fn get_ready(&mut self) -> Step<()> {
        Ok(())
    }

    /// Forks this process, with whatever the plugin keeps in it.
    ///
    /// # Errors
    /// What the system said.
    fn fork(&self) -> io::Result<Forked> {
        process::fork()
    }

    /// The first step of the process that serves: threads that it starts now stay.
    ///
    /// # Errors
    /// It cannot serve.
    fn after_fork(&mut self) -> Step<()> {
        Ok(())
    }

    /// What is served.
    ///
    /// # Errors
    /// There is nothing.
    fn disk(&self) -> Step<Arc<dyn Disk>>;

    /// No connection is left, and none comes.
    fn cleanup(&mut self) {}

    /// What `--dump-plugin` shows of it beyond the common lines, as `key=value` lines; in the place of `config_complete` and
    /// everything after it but `thread_model`. `print` writes the common lines first; after it the plugin may write by itself.
    ///
    /// # Errors
    /// It does not say.
    fn dump(&mut self, print: &mut dyn FnMut(&str)) -> Step<()> {
        print(&self.magic().map(|key| format!("magic_config_key={key}\n")).unwrap_or_default());
        Ok(())
    }

    /// The last word of it in this process; answers the exit status, given what it would be.
    fn end(&mut self, status: u8) -> u8 {
        status
    }
}

/// Where a plugin of a name is.
pub enum Found {
    /// In this program.
    Here(Box<dyn Plugin>),
    /// In another program, which this process becomes; with the arguments that this one got.
    Elsewhere(Command),
    /// Nowhere: why.
    Nowhere(String),
}
