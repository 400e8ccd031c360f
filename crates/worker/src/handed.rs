//! Bytes that one process hands to another once: a memfd that is written, sealed, passed over, and mapped for reading.
//!
//! Sealed against writing and shrinking, the bytes are the same for as long as anybody maps them, so that a reader may
//! hold ordinary references into them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{Mmap, MmapOptions};
use rustix::fs::{MemfdFlags, SealFlags};

/// What handed memory must be sealed against.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE);

/// Makes a file in memory to write to. It does not survive an `exec`.
///
/// # Errors
/// What the kernel says.
pub fn create(name: &str) -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?))
}

/// Ends the writing: from now on the file cannot be changed by anybody.
///
/// # Errors
/// What the kernel says.
pub fn seal(file: File) -> io::Result<OwnedFd> {
    rustix::fs::fcntl_add_seals(&file, SEALS | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Memory that was handed over, mapped.
#[derive(Debug)]
pub struct Handed(Option<Mmap>);

impl Handed {
    /// Maps what another process sealed.
    ///
    /// # Errors
    /// `InvalidInput` for memory that is not sealed, else what the kernel says.
    pub fn new(memory: &OwnedFd) -> io::Result<Self> {
        let memory: BorrowedFd<'_> = memory.as_fd();
        if !rustix::fs::fcntl_get_seals(memory)?.contains(SEALS) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "memory that was handed over is not sealed"));
        }
        if rustix::fs::fstat(memory)?.st_size == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the seals (checked above, and they can never be taken off) keep every process from writing the bytes and
        // from shortening the file, so the slice that is made of the mapping never changes and never goes away.
        let map = unsafe { MmapOptions::new().map(&memory)? };
        Ok(Self(Some(map)))
    }
}

impl Deref for Handed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn sealed_bytes_can_be_mapped_and_nothing_else() {
        let mut file = create("test").unwrap();
        file.write_all(b"some bytes").unwrap();
        let other = file.try_clone().unwrap();
        let unsealed: OwnedFd = other.into();
        assert!(Handed::new(&unsealed).is_err());
        let sealed = seal(file).unwrap();
        assert_eq!(&*Handed::new(&sealed).unwrap(), b"some bytes");
        assert!(rustix::io::write(&unsealed, b"x").is_err(), "nobody can write any more");
        assert_eq!(&*Handed::new(&seal(create("empty").unwrap()).unwrap()).unwrap(), b"");
    }
}
