//! Files under a password. The original's container (bakthat reference, section 6): Blowfish in CBC, the password itself as
//! the key, no check value. Or [`crate::age`], which its first line gives away.

use std::io::{self, Read, Write};
use std::path::Path;

use blowfish::Blowfish;
use blowfish::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

use crate::age;
use crate::control::Control;
use crate::error::{About, Error, Result};
use crate::gzip;
use crate::output::Output;

/// Bytes of a block of the cipher, and of the random start.
const BLOCK: usize = 8;
/// The longest password in bytes.
const LONGEST: usize = 56;
/// Bytes dealt with at a time: a whole number of blocks.
const PIECE: usize = 256 << 10;

/// How a file is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// The original's: weak, and read by everything that read the original's archives.
    Blowfish,
    /// age, with a passphrase.
    Age,
}

impl Container {
    /// Its name in profiles.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blowfish => "blowfish",
            Self::Age => "age",
        }
    }

    /// What stored names end with.
    #[must_use]
    pub fn ending(self) -> &'static str {
        match self {
            Self::Blowfish => ".enc",
            Self::Age => ".age",
        }
    }

    /// The one of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn of_name(name: &str) -> Result<Self> {
        match name {
            "blowfish" => Ok(Self::Blowfish),
            "age" => Ok(Self::Age),
            _ => Err(Error::Other(format!("{name:?} is no way to encrypt: there are blowfish and age"))),
        }
    }
}

/// Encrypts a file; gives the length of the result in bytes.
///
/// # Errors
/// A password that cannot be one; the system's. Nothing is at `out` then. [`Error::Interrupted`].
pub fn encrypt_file(
    source: &Path,
    out: &Path,
    password: &[u8],
    container: Container,
    control: &Control,
) -> Result<u64> {
    let cipher = match container {
        Container::Blowfish => Some(cipher(password)?),
        Container::Age => None,
    };
    control.begin("Encrypting");
    let mut input = gzip::open(source, control)?;
    let mut output = Output::create(out)?;
    match cipher {
        Some(cipher) => encrypt(&cipher, &mut input, source, &mut output, out)?,
        None => age::encrypt(&mut input, source, &mut output, out, password)?,
    }
    output.finish()
}

/// Decrypts a file, whichever container it is in, and says which.
///
/// # Errors
/// [`Error::WrongPassword`], which only age can tell; a file that is not whole; the system's. Nothing is at `out` then.
/// [`Error::Interrupted`].
pub fn decrypt_file(source: &Path, out: &Path, password: &[u8], control: &Control) -> Result<Container> {
    control.begin("Decrypting");
    let mut input = gzip::open(source, control)?;
    let length = std::fs::metadata(source).about(source)?.len();
    let mut start = Vec::new();
    Read::by_ref(&mut input).take(age::MAGIC.len() as u64).read_to_end(&mut start).about(source)?;
    if start == age::MAGIC {
        let mut input = io::BufReader::with_capacity(PIECE, input);
        let mut output = Output::create(out)?;
        age::decrypt(&mut input, source, &mut output, out, password)?;
        output.finish()?;
        return Ok(Container::Age);
    }
    let cipher = cipher(password)?;
    if length < 2 * BLOCK as u64 || !length.is_multiple_of(BLOCK as u64) {
        return Err(Error::Other(format!(
            "{}: it is not encrypted, or not whole: {length} bytes are no whole number of blocks",
            source.display()
        )));
    }
    let mut output = Output::create(out)?;
    decrypt(&cipher, &mut start.as_slice().chain(input), source, &mut output, out)?;
    output.finish()?;
    Ok(Container::Blowfish)
}

/// The cipher under a password.
fn cipher(password: &[u8]) -> Result<Blowfish> {
    if password.is_empty() {
        return Err(Error::other("an empty password encrypts nothing"));
    }
    if password.len() > LONGEST {
        return Err(Error::Other(format!(
            "the password has {} bytes: Blowfish takes {LONGEST} at most",
            password.len()
        )));
    }
    // The key is used over and over anyway: the library only wants to see four bytes of it.
    let mut key = password.to_vec();
    while key.len() < 4 {
        key.extend_from_slice(password);
    }
    // Longer than 56 it cannot have become: 3 bytes become 6.
    Blowfish::new_from_slice(&key).map_err(Error::other)
}

fn encrypt(cipher: &Blowfish, input: &mut dyn Read, from: &Path, output: &mut dyn Write, to: &Path) -> Result<()> {
    let mut chain = random::<BLOCK>()?;
    output.write_all(&chain).about(to)?;
    let mut buffer = Vec::with_capacity(PIECE + BLOCK);
    loop {
        buffer.clear();
        let read = (&mut *input).take(PIECE as u64).read_to_end(&mut buffer).about(from)?;
        if read < PIECE {
            buffer.extend_from_slice(&padding(read, &random()?));
        }
        for block in buffer.chunks_exact_mut(BLOCK) {
            for (byte, before) in block.iter_mut().zip(chain) {
                *byte ^= before;
            }
            let mut one = Array([0; BLOCK]);
            one.copy_from_slice(block);
            cipher.encrypt_block(&mut one);
            block.copy_from_slice(&one);
            chain = one.into();
        }
        output.write_all(&buffer).about(to)?;
        if read < PIECE {
            return Ok(());
        }
    }
}

/// What fills the last block behind `length` bytes: random bytes and one that says how many there are, in a random multiple
/// of eight.
fn padding(length: usize, random: &[u8; BLOCK]) -> Vec<u8> {
    let count = BLOCK - length % BLOCK;
    let mut padding = random[..count].to_vec();
    // 0 to 30 eights, each as likely as the others but for a hair.
    let eights = u16::from(random[count - 1]) * 31 / 256;
    padding[count - 1] = u8::try_from(eights * 8).unwrap_or(0) + u8::try_from(count).unwrap_or(8);
    padding
}

fn decrypt(cipher: &Blowfish, input: &mut dyn Read, from: &Path, output: &mut dyn Write, to: &Path) -> Result<()> {
    let mut chain = [0; BLOCK];
    input.read_exact(&mut chain).about(from)?;
    // The last block of what was read waits: it may hold the padding.
    let mut held: Vec<u8> = Vec::new();
    let mut buffer = Vec::with_capacity(PIECE);
    loop {
        buffer.clear();
        let read = (&mut *input).take(PIECE as u64).read_to_end(&mut buffer).about(from)?;
        if !read.is_multiple_of(BLOCK) {
            return Err(Error::Other(format!("{}: it changed while it was read", from.display())));
        }
        for block in buffer.chunks_exact_mut(BLOCK) {
            let mut one = Array([0; BLOCK]);
            one.copy_from_slice(block);
            let next: [u8; BLOCK] = one.into();
            cipher.decrypt_block(&mut one);
            for ((byte, before), plain) in block.iter_mut().zip(chain).zip(one.iter()) {
                *byte = plain ^ before;
            }
            chain = next;
        }
        if read > 0 {
            output.write_all(&held).about(to)?;
            held.clear();
            held.extend_from_slice(&buffer[read - BLOCK..]);
            output.write_all(&buffer[..read - BLOCK]).about(to)?;
        }
        if read < PIECE {
            break;
        }
    }
    let Some(flag) = held.last() else {
        return Err(Error::Other(format!("{}: it is not whole", from.display())));
    };
    let padding = match usize::from(flag % 8) {
        0 => BLOCK,
        count => count,
    };
    output.write_all(&held[..BLOCK - padding]).about(to)
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Other(format!("the system gives no random bytes: {error}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn decrypted(object: &[u8], password: &str) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("in"), folder.path().join("out"));
        std::fs::write(&from, object).unwrap();
        let container = decrypt_file(&from, &to, password.as_bytes(), &Control::default());
        if container.is_err() {
            assert!(!to.exists());
        }
        container.map(|container| {
            assert_eq!(container, Container::Blowfish);
            std::fs::read(&to).unwrap()
        })
    }

    #[test]
    fn the_vectors_of_the_reference_decrypt() {
        for (password, object, plain) in [
            ("ab", "00010203040506072c0dd79dc6c09841", "hello"),
            ("abab", "00010203040506072c0dd79dc6c09841", "hello"),
            ("correct horse", "00010203040506075421c9b5411e581d4c7feb836edd55bb", "12345678"),
            ("pässwörd", "00010203040506071118e0788004027f", ""),
        ] {
            assert_eq!(decrypted(&hex(object), password).unwrap(), plain.as_bytes(), "{password}");
        }
    }

    #[test]
    fn every_length_comes_back_and_the_flag_is_between_1_and_248() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("in"), folder.path().join("out"));
        let lengths = (0..=17).chain([4087, 4088, 4089, 4096, 4097, 8192, PIECE - 1, PIECE, PIECE + 1, PIECE + 8]);
        for length in lengths {
            let plain: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            std::fs::write(&from, &plain).unwrap();
            for password in ["x", "yz", "pas", &"k".repeat(56)] {
                let size =
                    encrypt_file(&from, &to, password.as_bytes(), Container::Blowfish, &Control::default()).unwrap();
                assert_eq!(size, (8 + length + 8 - length % 8) as u64);
                assert_eq!(decrypted(&std::fs::read(&to).unwrap(), password).unwrap(), plain);
            }
        }
        for length in 0..8 {
            for random in [[0; 8], [255; 8], [77; 8]] {
                let padding = padding(length, &random);
                let flag = *padding.last().unwrap();
                assert!((1..=248).contains(&flag));
                assert_eq!(usize::from(flag % 8), padding.len() % 8);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("in"), folder.path().join("out"));
        std::fs::write(&from, "x").unwrap();
        for password in [&b""[..], &[b'k'; 57]] {
            assert!(encrypt_file(&from, &to, password, Container::Blowfish, &Control::default()).is_err());
            assert!(!to.exists());
        }
        for object in [&[0; 8][..], &[0; 23], &[]] {
            assert!(decrypted(object, "password").is_err());
        }
    }

    #[test]
    fn two_objects_of_one_file_begin_differently() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("in");
        std::fs::write(&from, "x").unwrap();
        let object = |name: &str| {
            let to = folder.path().join(name);
            encrypt_file(&from, &to, b"password", Container::Blowfish, &Control::default()).unwrap();
            std::fs::read(to).unwrap()
        };
        assert_ne!(object("a")[..8], object("b")[..8]);
    }
}
