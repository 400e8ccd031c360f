//! The program `backstay_gpbackup_plugin`, which gpbackup and gprestore start for every file and every stream.

use std::process::ExitCode;

fn main() -> ExitCode {
    backstay_gpbackup_plugin::main(std::env::args_os().skip(1))
}
