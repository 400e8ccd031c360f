//! `backstay nbdkit`: what stands behind it is in nbdkit's spelling and never gets here, see [`crate::nbdkit`].

use std::ffi::OsString;

use clap::Args;

use crate::failure::Failure;
use crate::session::Session;

/// Serve a disk by the NBD protocol: one that a Python script makes up, a file, memory
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct NbdkitArgs {
    /// nbdkit's options, the plugin and its parameters: backstay nbdkit --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    pub arguments: Vec<OsString>,
}

impl NbdkitArgs {
    /// The word was not the first one.
    ///
    /// # Errors
    /// Always: options before it are of other commands.
    pub fn run(self, _session: &Session) -> Result<(), Failure> {
        Err(Failure::fatal(
            "options before \"nbdkit\" mean nothing to it; try \"backstay nbdkit [OPTIONS] PLUGIN ...\"",
        ))
    }
}
