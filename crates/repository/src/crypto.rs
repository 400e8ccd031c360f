//! The repository's cipher: AES-256 in counter mode, authenticated with Poly1305-AES (reference section 3).
//!
//! An envelope is `IV (16) | ciphertext | MAC (16)`. The MAC covers the ciphertext only; its one-time key is `r`
//! followed by the IV encrypted with AES-128 under `k`. The counter is the whole IV, counted up as a 128-bit
//! big-endian number.

use std::cell::RefCell;
use std::fmt;

use aes::cipher::{BlockCipherEncrypt, InnerIvInit, KeyInit, StreamCipher};
use aes::{Aes128Enc, Aes256Enc};
use ctr::{Ctr128BE, CtrCore, flavors};
use poly1305::universal_hash::UniversalHash;
use poly1305::{Block, Poly1305};
use sha2::{Digest, Sha256};

/// Bytes that an envelope is longer than what it holds.
pub const OVERHEAD: usize = IV_LEN + MAC_LEN;

const IV_LEN: usize = 16;
const MAC_LEN: usize = 16;
/// Bytes that are encrypted and authenticated in one go, while they are in the fastest cache. A multiple of 16.
const STRIDE: usize = 8 << 10;
/// Random bytes asked of the operating system at a time.
const RANDOM_BATCH: usize = 4096;

/// Why an envelope does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// Shorter than IV and MAC.
    #[error("too short for an encrypted object")]
    TooShort,
    /// An all-zero IV: nobody writes one.
    #[error("encrypted with a null IV")]
    NullIv,
    /// The MAC does not fit: wrong key, or changed bytes.
    #[error("ciphertext verification failed")]
    Verification,
}

/// The operating system gave no random bytes.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: {0}")]
pub struct RandomError(String);

/// Fills `bytes` with random ones from the operating system.
///
/// # Errors
/// [`RandomError`].
pub fn random(bytes: &mut [u8]) -> Result<(), RandomError> {
    getrandom::fill(bytes).map_err(|error| RandomError(error.to_string()))
}

/// A set of three keys: the repository's own (random), or a user's (made of a password).
pub struct MasterKey {
    encrypt: [u8; 32],
    mac_k: [u8; 16],
    mac_r: [u8; 16],
    data_cipher: Aes256Enc,
    pad_cipher: Aes128Enc,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(secret)")
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        // Best effort: the optimiser may drop stores that nobody reads.
        self.encrypt.fill(0);
        self.mac_k.fill(0);
        self.mac_r.fill(0);
        std::hint::black_box((&self.encrypt, &self.mac_k, &self.mac_r));
    }
}

impl MasterKey {
    /// A new random key.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, RandomError> {
        let mut bytes = [0; 64];
        random(&mut bytes)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// From 64 bytes: `encrypt` (32), `k` (16), `r` (16), as scrypt gives them.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut encrypt = [0; 32];
        let mut mac_k = [0; 16];
        let mut mac_r = [0; 16];
        encrypt.copy_from_slice(&bytes[..32]);
        mac_k.copy_from_slice(&bytes[32..48]);
        mac_r.copy_from_slice(&bytes[48..]);
        Self::from_parts(encrypt, mac_k, mac_r)
    }

    /// From its three keys.
    #[must_use]
    pub fn from_parts(encrypt: [u8; 32], mac_k: [u8; 16], mac_r: [u8; 16]) -> Self {
        let data_cipher = Aes256Enc::new(&encrypt.into());
        let pad_cipher = Aes128Enc::new(&mac_k.into());
        Self { encrypt, mac_k, mac_r, data_cipher, pad_cipher }
    }

    /// Its three keys: `encrypt`, `k`, `r`.
    pub(crate) fn parts(&self) -> (&[u8; 32], &[u8; 16], &[u8; 16]) {
        (&self.encrypt, &self.mac_k, &self.mac_r)
    }

    /// Whether one of the three keys is all zeros, which restic refuses.
    pub(crate) fn has_null_part(&self) -> bool {
        self.encrypt == [0; 32] || self.mac_k == [0; 16] || self.mac_r == [0; 16]
    }

    /// Encrypts and authenticates `plain` under a fresh random IV.
    ///
    /// # Panics
    /// As [`MasterKey::seal_into`].
    #[must_use]
    pub fn seal(&self, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len() + OVERHEAD);
        self.seal_into(plain, &mut out);
        out
    }

    /// The same, appended to `out`.
    ///
    /// # Panics
    /// When the operating system stops giving random bytes in the middle of a run (Linux never does): nothing may be
    /// encrypted then, and going on would lose data.
    pub fn seal_into(&self, plain: &[u8], out: &mut Vec<u8>) {
        self.seal_with_iv(&fresh_iv(), plain, out);
    }

    fn seal_with_iv(&self, iv: &[u8; IV_LEN], plain: &[u8], out: &mut Vec<u8>) {
        out.reserve(plain.len() + OVERHEAD);
        out.extend_from_slice(iv);
        let mut stream = self.stream(iv);
        let mut mac = self.mac(iv);
        let mut rest = plain;
        while rest.len() >= STRIDE {
            let (now, later) = rest.split_at(STRIDE);
            let start = out.len();
            out.extend_from_slice(now);
            stream.apply_keystream(&mut out[start..]);
            mac.update(Block::slice_as_chunks(&out[start..]).0);
            rest = later;
        }
        let start = out.len();
        out.extend_from_slice(rest);
        stream.apply_keystream(&mut out[start..]);
        let tag = finish_mac(mac, &out[start..]);
        out.extend_from_slice(&tag);
    }

    /// Verifies and decrypts an envelope.
    ///
    /// # Errors
    /// [`CryptoError`]; nothing is decrypted then.
    pub fn open(&self, envelope: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let mut plain = Vec::new();
        self.open_into(envelope, &mut plain)?;
        Ok(plain)
    }

    /// The same, into `out`, whose former contents go.
    ///
    /// # Errors
    /// As [`MasterKey::open`]; then `out` is empty.
    pub fn open_into(&self, envelope: &[u8], out: &mut Vec<u8>) -> Result<(), CryptoError> {
        out.clear();
        let (iv, rest) = envelope.split_first_chunk::<IV_LEN>().ok_or(CryptoError::TooShort)?;
        let (ciphertext, tag) = rest.split_last_chunk::<MAC_LEN>().ok_or(CryptoError::TooShort)?;
        if *iv == [0; IV_LEN] {
            return Err(CryptoError::NullIv);
        }
        if !same(&finish_mac(self.mac(iv), ciphertext), tag) {
            return Err(CryptoError::Verification);
        }
        out.extend_from_slice(ciphertext);
        self.stream(iv).apply_keystream(out);
        Ok(())
    }

    /// A secret of 32 bytes that belongs to this key and `label` and tells nothing about either: HMAC-SHA-256 of the
    /// label under the 64 key bytes.
    #[must_use]
    pub fn derive(&self, label: &[u8]) -> [u8; 32] {
        let mut key = [0; 64];
        key[..32].copy_from_slice(&self.encrypt);
        key[32..48].copy_from_slice(&self.mac_k);
        key[48..].copy_from_slice(&self.mac_r);
        let inner = Sha256::new().chain_update(key.map(|byte| byte ^ 0x36)).chain_update(label).finalize();
        Sha256::new().chain_update(key.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
    }

    fn stream(&self, iv: &[u8; IV_LEN]) -> Ctr128BE<&Aes256Enc> {
        let core = CtrCore::<&Aes256Enc, flavors::Ctr128BE>::inner_iv_init(&self.data_cipher, &(*iv).into());
        Ctr128BE::from_core(core)
    }

    fn mac(&self, iv: &[u8; IV_LEN]) -> Poly1305 {
        let mut pad = (*iv).into();
        self.pad_cipher.encrypt_block(&mut pad);
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.mac_r);
        key[16..].copy_from_slice(&pad);
        Poly1305::new(&key.into())
    }
}

/// The MAC after the last bytes. Everything before them came in whole blocks.
fn finish_mac(mut mac: Poly1305, last: &[u8]) -> [u8; MAC_LEN] {
    let (blocks, rest) = Block::slice_as_chunks(last);
    mac.update(blocks);
    mac.compute_unpadded(rest).into()
}

/// Compares without telling by its time where the difference is.
fn same(a: &[u8; MAC_LEN], b: &[u8; MAC_LEN]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b))) == 0
}

struct RandomBatch {
    bytes: [u8; RANDOM_BATCH],
    used: usize,
}

thread_local! {
    static RANDOM: RefCell<RandomBatch> = const {
        RefCell::new(RandomBatch { bytes: [0; RANDOM_BATCH], used: RANDOM_BATCH })
    };
}

/// A random IV, never all zeros. Every thread takes them from a batch of its own, so that a blob costs no system call.
fn fresh_iv() -> [u8; IV_LEN] {
    RANDOM.with_borrow_mut(|batch| {
        loop {
            if batch.used == RANDOM_BATCH {
                if let Err(error) = random(&mut batch.bytes) {
                    panic!("{error}");
                }
                batch.used = 0;
            }
            let mut iv = [0; IV_LEN];
            iv.copy_from_slice(&batch.bytes[batch.used..batch.used + IV_LEN]);
            batch.used += IV_LEN;
            if iv != [0; IV_LEN] {
                return iv;
            }
        }
    })
}
