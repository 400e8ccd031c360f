//! Files between us and the program `age`, which asks for its passphrase on a terminal: `script` gives it one.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use backstay_bakthat::Control;
use backstay_bakthat::container::{Container, decrypt_file, encrypt_file};

/// Runs `age` on a terminal and types the passphrase, as often as it is asked for.
fn age(arguments: &str, times: usize) {
    let mut child = Command::new("script")
        .args(["-qec", &format!("age {arguments}"), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script and age are installed by scripts/setup test");
    let mut keys = child.stdin.take().unwrap();
    keys.write_all("correct horse\n".repeat(times).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(keys);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn age_reads_ours_and_we_read_ages() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for length in [0, 1, 65_536, 200_000] {
        let plain: Vec<u8> = (0..length).map(|at: u32| (at >> 3) as u8).collect();
        fs::write(at("plain"), &plain).unwrap();
        encrypt_file(&at("plain"), &at("ours"), b"correct horse", Container::Age, &Control::default()).unwrap();
        age(&format!("-d -o {} {}", at("by-age").display(), at("ours").display()), 1);
        // age makes no file for nothing.
        assert!(fs::read(at("by-age")).unwrap_or_default() == plain, "{length}");
        age(&format!("-p -o {} {}", at("theirs").display(), at("plain").display()), 2);
        decrypt_file(&at("theirs"), &at("by-us"), b"correct horse", &Control::default()).unwrap();
        assert!(fs::read(at("by-us")).unwrap() == plain, "{length}");
        for name in ["by-age", "theirs"] {
            let _ = fs::remove_file(at(name));
        }
    }
}
