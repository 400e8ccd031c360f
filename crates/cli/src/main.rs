//! The program `backstay`: everything it does is in the library beside it, so that tests can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    backstay_cli::main(std::env::args_os())
}
