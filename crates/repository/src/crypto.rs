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

    /// Seals the object of this number, with the number as its IV. For a key that seals nothing else, and each number
    /// once.
    pub(crate) fn seal_numbered(&self, number: u64, plain: &[u8], out: &mut Vec<u8>) {
        self.seal_with_iv(&numbered_iv(number), plain, out);
    }

    /// Opens the object of this number and no other, into `out`, whose former contents go.
    ///
    /// # Errors
    /// As [`MasterKey::open`].
    pub(crate) fn open_numbered(&self, number: u64, envelope: &[u8], out: &mut Vec<u8>) -> Result<(), CryptoError> {
        out.clear();
        if !envelope.starts_with(&numbered_iv(number)) {
            return Err(CryptoError::Verification);
        }
        self.open_into(envelope, out)
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

/// The IV of an object with a number: the number (from 1, for an IV is never zero), then the count of blocks.
fn numbered_iv(number: u64) -> [u8; IV_LEN] {
    let mut iv = [0; IV_LEN];
    iv[..8].copy_from_slice(&number.saturating_add(1).to_be_bytes());
    iv
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// The key of the reference's section 24: the bytes 00 to 3f.
    fn reference_key() -> MasterKey {
        MasterKey::from_bytes(&std::array::from_fn(|at| at as u8))
    }

    fn reference_iv(number: u8) -> [u8; 16] {
        let mut iv = [0xa0; 16];
        iv[15] = number;
        iv
    }

    #[test]
    fn the_references_envelopes_are_sealed_and_opened() {
        let key = reference_key();
        for (number, plain, envelope) in [
            (3, b"hello\n".to_vec(), "a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0037c65eb51e40b57e017baa5a5ef2e51ea9cd53e07450b"),
            (
                4,
                hex("28b52ffd200c61000068656c6c6f20776f726c640a"),
                "a0a0a0a0a0a0a0a0a0a0a0a0a0a0a004a07ad970bb1f68910bfa8ff6c41a350f9641a1b9f803483bed05e0af1b346a05be279bdd85",
            ),
        ] {
            let mut sealed = Vec::new();
            key.seal_with_iv(&reference_iv(number), &plain, &mut sealed);
            assert_eq!(sealed, hex(envelope));
            assert_eq!(key.open(&sealed).unwrap(), plain);
        }
    }

    /// Against a straightforward reading of the reference's section 3.2, one block at a time.
    fn seal_slowly(key: &MasterKey, iv: [u8; 16], plain: &[u8]) -> Vec<u8> {
        let mut counter = u128::from_be_bytes(iv);
        let mut out = iv.to_vec();
        for block in plain.chunks(16) {
            let mut pad = counter.to_be_bytes().into();
            key.data_cipher.encrypt_block(&mut pad);
            out.extend(block.iter().zip(pad).map(|(byte, pad)| byte ^ pad));
            counter = counter.wrapping_add(1);
        }
        let tag = key.mac(&iv).compute_unpadded(&out[16..]);
        out.extend_from_slice(&tag);
        out
    }

    #[test]
    fn every_length_is_sealed_as_the_reference_says() {
        let key = reference_key();
        let plain: Vec<u8> = (0..3 * STRIDE + 40).map(|at| (at * 7 % 251) as u8).collect();
        let lengths = (0..70).chain((1..=3).flat_map(|strides| strides * STRIDE - 18..strides * STRIDE + 18));
        for length in lengths {
            let mut sealed = Vec::new();
            key.seal_with_iv(&reference_iv(1), &plain[..length], &mut sealed);
            assert!(sealed == seal_slowly(&key, reference_iv(1), &plain[..length]), "{length} bytes");
            assert!(key.open(&sealed).unwrap() == plain[..length], "{length} bytes");
        }
    }

    #[test]
    fn the_counter_carries_into_its_upper_half() {
        let key = reference_key();
        let mut iv = [0xff; 16];
        iv[0] = 1;
        let plain = vec![5; 16 * 40];
        let mut sealed = Vec::new();
        key.seal_with_iv(&iv, &plain, &mut sealed);
        assert_eq!(sealed, seal_slowly(&key, iv, &plain));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_an_authentication_failure() {
        let key = reference_key();
        let sealed = key.seal(b"contents that matter");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&changed), Err(CryptoError::Verification), "bit {bit}");
        }
        assert_eq!(key.open(&sealed[..31]), Err(CryptoError::TooShort));
        assert_eq!(key.open(&sealed[..40]), Err(CryptoError::Verification));
    }

    #[test]
    fn a_null_iv_is_refused() {
        let key = reference_key();
        let mut sealed = Vec::new();
        key.seal_with_iv(&[0; 16], b"x", &mut sealed);
        assert_eq!(key.open(&sealed), Err(CryptoError::NullIv));
    }

    #[test]
    fn no_two_seals_share_an_iv_on_any_thread() {
        let key = reference_key();
        let mut ivs = Vec::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).map(|_| key.seal(b"")[..16].to_vec()).collect::<Vec<_>>()))
                .collect();
            for thread in threads {
                ivs.extend(thread.join().unwrap());
            }
        });
        ivs.sort();
        ivs.dedup();
        assert_eq!(ivs.len(), 4000);
        assert!(!ivs.contains(&vec![0; 16]));
    }

    #[test]
    fn derived_secrets_are_hmac_of_the_label() {
        // Computed with another implementation: HMAC-SHA-256, key 00 to 3f, "label".
        let expected = hex("32270bbba2ca127112721dd607e910219d9e30323a887ea1b5e0e036adc90adc");
        assert_eq!(reference_key().derive(b"label")[..], expected);
        assert_ne!(reference_key().derive(b"other")[..], expected);
    }

    #[test]
    fn the_key_stays_out_of_debug_output() {
        assert_eq!(format!("{:?}", reference_key()), "MasterKey(secret)");
    }
}
