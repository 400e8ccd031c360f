//! An S3 server on loopback for tests in other languages: `s3_server [FOLDER]` serves the buckets in a folder (an own one that
//! goes with it, if none is named) to the access key `MYKEY` with the secret `MYSECRET`, and says its address on one line. It
//! ends when its standard input does, and with whoever started it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::Read;
use std::path::PathBuf;

use backstay_stores::testing::s3::S3Server;

fn main() {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let own = tempfile::tempdir().unwrap();
    let folder = std::env::args_os().nth(1).map_or_else(|| own.path().to_owned(), PathBuf::from);
    let server = S3Server::start_with(&folder, "MYKEY", "MYSECRET");
    println!("{}", server.endpoint());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
