//! age files (age-encryption.org/v1) with a passphrase: a key by scrypt, ChaCha20-Poly1305 in pieces of 64 KiB. Read and
//! written by the programs age and rage. Other recipients than a passphrase are not read.

use std::io::{self, BufRead, Read, Write};
use std::path::Path;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::container::random;
use crate::error::{About, Error, Result};

/// How every age file begins.
pub(crate) const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// The key is worth 2 to the power of this many rounds: 64 MiB of memory while it is computed.
const WORK: u8 = 16;
/// More than this is not computed for a file that asks for it: it would take gigabytes. (age itself asks for 18.)
const MOST_WORK: u8 = 20;
/// Bytes of contents that are sealed together.
const PIECE: usize = 64 << 10;
const TAG: usize = 16;
const FILE_KEY: usize = 16;
/// No line of a header is longer than this.
const LONGEST_LINE: usize = 4096;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

fn broken(from: &Path, what: &str) -> Error {
    Error::Other(format!("{}: it is damaged, or no age file that a passphrase opens: {what}", from.display()))
}

/// The key that opens the file's own key.
fn wrapping_key(password: &[u8], salt: &[u8], work: u8) -> Result<LessSafeKey> {
    let salt = [b"age-encryption.org/v1/scrypt", salt].concat();
    let parameters = scrypt::Params::new(work, 8, 1).map_err(Error::other)?;
    let mut key = [0; 32];
    scrypt::scrypt(password, &salt, &parameters, &mut key).map_err(Error::other)?;
    sealing_key(&key)
}

fn sealing_key(key: &[u8; 32]) -> Result<LessSafeKey> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| Error::other("the cipher refuses a key"))?;
    Ok(LessSafeKey::new(key))
}

/// 32 bytes drawn from the file's own key for one purpose.
fn drawn(file_key: &[u8], salt: &[u8], purpose: &[u8]) -> Result<[u8; 32]> {
    let mut key = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(file_key)
        .expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|drawn| drawn.fill(&mut key))
        .map_err(|_| Error::other("no key can be drawn"))?;
    Ok(key)
}

fn header_sum(file_key: &[u8]) -> Result<hmac::Key> {
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &drawn(file_key, b"", b"header")?))
}

/// The nonce of a piece: its number, and whether it is the last.
fn nonce(number: u64, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = u8::from(last);
    Nonce::assume_unique_for_key(nonce)
}

fn sealed(key: &LessSafeKey, nonce: Nonce, bytes: &mut Vec<u8>) -> Result<()> {
    key.seal_in_place_append_tag(nonce, Aad::empty(), bytes).map_err(|_| Error::other("the cipher refuses to seal"))
}

/// Encrypts all of the input.
pub(crate) fn encrypt(
    input: &mut dyn Read,
    from: &Path,
    output: &mut dyn Write,
    to: &Path,
    password: &[u8],
) -> Result<()> {
    if password.is_empty() {
        return Err(Error::other("an empty password encrypts nothing"));
    }
    let file_key = random::<FILE_KEY>()?;
    let salt = random::<16>()?;
    let mut wrapped = file_key.to_vec();
    sealed(&wrapping_key(password, &salt, WORK)?, Nonce::assume_unique_for_key([0; 12]), &mut wrapped)?;
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(
        format!("-> scrypt {} {WORK}\n{}\n---", BASE64.encode(salt), BASE64.encode(wrapped)).as_bytes(),
    );
    let sum = hmac::sign(&header_sum(&file_key)?, &header);
    header.extend_from_slice(format!(" {}\n", BASE64.encode(sum)).as_bytes());
    output.write_all(&header).about(to)?;
    let start = random::<16>()?;
    output.write_all(&start).about(to)?;
    let key = sealing_key(&drawn(&file_key, &start, b"payload")?)?;
    // A piece is sealed when it is known whether another one follows.
    let mut piece = Vec::with_capacity(PIECE + TAG);
    let mut next = Vec::with_capacity(PIECE + TAG);
    (&mut *input).take(PIECE as u64).read_to_end(&mut piece).about(from)?;
    for number in 0.. {
        next.clear();
        if piece.len() == PIECE {
            (&mut *input).take(PIECE as u64).read_to_end(&mut next).about(from)?;
        }
        let last = next.is_empty();
        sealed(&key, nonce(number, last), &mut piece)?;
        output.write_all(&piece).about(to)?;
        if last {
            break;
        }
        std::mem::swap(&mut piece, &mut next);
    }
    Ok(())
}

/// A line of the header without its end; `header` gets it whole.
fn line(input: &mut dyn BufRead, from: &Path, header: &mut Vec<u8>) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    (&mut *input).take(LONGEST_LINE as u64).read_until(b'\n', &mut line).about(from)?;
    header.extend_from_slice(&line);
    match line.pop() {
        Some(b'\n') => Ok(line),
        _ => Err(broken(from, "its head is not whole")),
    }
}

/// The head of a file that a passphrase opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    salt: Vec<u8>,
    work: u8,
    /// The file's own key, sealed.
    wrapped: Vec<u8>,
    /// What the sum is over.
    summed: Vec<u8>,
    sum: Vec<u8>,
}

impl Head {
    /// Reads the head of the file `from`, of which the first line was read already. Nothing is computed yet.
    ///
    /// # Errors
    /// It is none that a passphrase opens, or it asks for too much work.
    pub fn read(input: &mut dyn BufRead, from: &Path) -> Result<Self> {
        let mut header = MAGIC.to_vec();
        let stanza = line(input, from, &mut header)?;
        let stanza = String::from_utf8_lossy(&stanza).into_owned();
        let words: Vec<&str> = stanza.split(' ').collect();
        let ["->", "scrypt", salt, work] = words[..] else {
            return Err(broken(from, "it is for a key, not for a passphrase"));
        };
        let salt = BASE64.decode(salt).map_err(|_| broken(from, "its salt"))?;
        let work: u8 = work.parse().map_err(|_| broken(from, "its work factor"))?;
        if salt.len() != 16 || work == 0 {
            return Err(broken(from, "its salt or its work factor"));
        }
        if work > MOST_WORK {
            return Err(Error::Other(format!(
                "{}: it asks for more work (2 to the power of {work}) than is reasonable",
                from.display()
            )));
        }
        let wrapped = BASE64.decode(line(input, from, &mut header)?).map_err(|_| broken(from, "its key"))?;
        if wrapped.len() != FILE_KEY + TAG {
            return Err(broken(from, "its key"));
        }
        let end = line(input, from, &mut header)?;
        let sum =
            end.strip_prefix(b"--- ").ok_or_else(|| broken(from, "its sum, or a passphrase that is not alone"))?;
        let sum = BASE64.decode(sum).map_err(|_| broken(from, "its sum"))?;
        header.truncate(header.len() - end.len() - 1 + b"---".len());
        Ok(Self { salt, work, wrapped, summed: header, sum })
    }
}

/// Decrypts all of an input whose first line was read already.
pub(crate) fn decrypt(
    input: &mut dyn BufRead,
    from: &Path,
    output: &mut dyn Write,
    to: &Path,
    password: &[u8],
) -> Result<()> {
    let Head { salt, work, mut wrapped, summed, sum } = Head::read(input, from)?;
    let file_key = wrapping_key(password, &salt, work)?
        .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut wrapped)
        .map_err(|_| Error::WrongPassword(format!("{}: the password is wrong", from.display())))?
        .to_vec();
    hmac::verify(&header_sum(&file_key)?, &summed, &sum).map_err(|_| broken(from, "its head was changed"))?;
    let mut start = [0; 16];
    input.read_exact(&mut start).map_err(|error| cut(from, error))?;
    let key = sealing_key(&drawn(&file_key, &start, b"payload")?)?;
    let mut piece = Vec::with_capacity(PIECE + TAG);
    for number in 0.. {
        piece.clear();
        (&mut *input).take((PIECE + TAG) as u64).read_to_end(&mut piece).about(from)?;
        let last = piece.len() < PIECE + TAG || input.fill_buf().about(from)?.is_empty();
        let plain = key
            .open_in_place(nonce(number, last), Aad::empty(), &mut piece)
            .map_err(|_| broken(from, "its contents were changed, or it is not whole"))?;
        // A last piece without contents is there only where there are no contents at all.
        if last && plain.is_empty() && number > 0 {
            return Err(broken(from, "its end"));
        }
        output.write_all(plain).about(to)?;
        if last {
            return Ok(());
        }
    }
    Ok(())
}

fn cut(from: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        broken(from, "it is not whole")
    } else {
        Error::file(from, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{Container, decrypt_file, encrypt_file};
    use crate::control::Control;

    #[test]
    fn every_length_comes_back_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to, back) = (folder.path().join("in"), folder.path().join("out"), folder.path().join("back"));
        let control = Control::default();
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE] {
            let plain: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            std::fs::write(&from, &plain).unwrap();
            encrypt_file(&from, &to, b"password", Container::Age, &control).unwrap();
            assert_eq!(decrypt_file(&to, &back, b"password", &control).unwrap(), Container::Age);
            assert_eq!(std::fs::read(&back).unwrap(), plain);
        }
        std::fs::remove_file(&back).unwrap();
        let wrong = decrypt_file(&to, &back, b"passw0rd", &control);
        assert!(matches!(wrong, Err(Error::WrongPassword(_))), "{wrong:?}");
        let whole = std::fs::read(&to).unwrap();
        for at in [30, 60, 130, 180, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&to, damaged).unwrap();
            assert!(decrypt_file(&to, &back, b"password", &control).is_err(), "{at}");
        }
        for cut in [40, 150, 200, whole.len() - 1, whole.len() - PIECE - TAG] {
            std::fs::write(&to, &whole[..cut]).unwrap();
            assert!(decrypt_file(&to, &back, b"password", &control).is_err(), "{cut}");
        }
        assert!(!back.exists());
    }
}
