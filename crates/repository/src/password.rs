//! A password as it stands in a file, or as a command prints it: read as restic reads it, for the same file has to open the
//! same repository.

use std::path::Path;

/// What is left of it without blanks and line breaks on both sides.
#[must_use]
pub fn trimmed(bytes: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.trim().as_bytes().to_vec(),
        Err(_) => bytes.trim_ascii().to_vec(),
    }
}

/// The password in a file, without a mark of the byte order before it.
///
/// # Errors
/// One line that names the file: it cannot be read, or is empty.
pub fn from_file(path: &Path) -> Result<Vec<u8>, String> {
    let bytes =
        std::fs::read(path).map_err(|error| format!("cannot read the password file {}: {error}", path.display()))?;
    let password = trimmed(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes));
    if password.is_empty() {
        return Err(format!("the password file {} is empty", path.display()));
    }
    Ok(password)
}
