//! Where a file is cut into chunks: FastCDC with a secret gear table, or restic's Rabin fingerprint (reference
//! section 14).
//!
//! Both cut at no less than 512 KiB and no more than 8 MiB. In our own repositories the gear table comes from the
//! repository's key, so that chunk lengths do not betray known files. A repository that restic made keeps its Rabin
//! polynomial and goes on deduplicating against what restic wrote.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::crypto::{MasterKey, RandomError, random};

/// The shortest chunk, in bytes; only the last one of a file may be shorter.
pub const MIN: usize = 512 << 10;
/// Where FastCDC changes from the strict mask to the loose one.
const NORMAL: usize = 1 << 20;
/// The longest chunk, in bytes.
pub const MAX: usize = 8 << 20;

/// The masks that the FastCDC authors published for a mean of 1 MiB: 21 bits below it, 19 above.
const MASK_STRICT: u64 = 0x0000_d917_6753_7000;
const MASK_LOOSE: u64 = 0x0000_d917_0753_7000;

/// Rabin: the window's length in bytes.
const WINDOW: usize = 64;
/// Rabin: places that are looked at side by side, and how far each goes before it meets the next one's start.
const LANES: usize = 4;
const SEGMENT: usize = 2 << 10;
const BLOCK: usize = LANES * SEGMENT;
/// Rabin: cut where these bits of the fingerprint are zero.
const RABIN_MASK: u64 = 0xF_FFFF;
/// Degree of the Rabin polynomial.
const DEGREE: u32 = 53;

/// How a repository's files are cut.
#[derive(Clone)]
pub enum ChunkerParams {
    /// FastCDC with this gear table.
    FastCdc(Arc<Gear>),
    /// Rabin fingerprints with these tables.
    Rabin(Arc<Rabin>),
}

impl fmt::Debug for ChunkerParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FastCdc(_) => "FastCdc(secret)",
            Self::Rabin(_) => "Rabin(secret)",
        })
    }
}

/// How far a chunk in the making has been looked at. Begin each chunk with a new one.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScanState {
    /// Bytes that were looked at, or 0.
    position: usize,
    hash: u64,
}

impl ChunkerParams {
    /// The shortest chunk, in bytes.
    pub const MIN: usize = MIN;
    /// The longest chunk, in bytes.
    pub const MAX: usize = MAX;

    /// FastCDC with the gear table that belongs to this key.
    #[must_use]
    pub fn fast_cdc(key: &MasterKey) -> Self {
        Self::FastCdc(Arc::new(Gear::derive(key)))
    }

    /// restic's chunker with this polynomial.
    #[must_use]
    pub fn rabin(polynomial: u64) -> Self {
        Self::Rabin(Arc::new(Rabin::new(polynomial)))
    }

    /// The length of the first chunk of `data`, or none if there is no cut in it yet: then it is shorter than
    /// [`MAX`] and the caller adds bytes, or cuts where the file ends.
    #[must_use]
    pub fn cut(&self, data: &[u8]) -> Option<usize> {
        self.cut_from(data, &mut ScanState::default())
    }

    /// The same for a chunk that grows from call to call: what was looked at is not looked at again. `data` begins at
    /// the chunk's first byte every time.
    pub fn cut_from(&self, data: &[u8], state: &mut ScanState) -> Option<usize> {
        match self {
            Self::FastCdc(gear) => gear.cut(data, state),
            Self::Rabin(rabin) => rabin.cut(data, state),
        }
    }

    /// Into how long chunks a long run of zero bytes is cut.
    #[must_use]
    pub fn zero_chunk_len(&self) -> usize {
        match self {
            Self::FastCdc(_) => MAX,
            Self::Rabin(_) => MIN,
        }
    }
}

/// FastCDC's table of 256 random numbers, and the same shifted left by one.
pub struct Gear {
    once: [u64; 256],
    twice: [u64; 256],
}

impl Gear {
    /// The table that belongs to this key.
    fn derive(key: &MasterKey) -> Self {
        let mut attempt = 0_u32;
        loop {
            let mut label = b"backstay fastcdc gear ".to_vec();
            label.extend_from_slice(&attempt.to_le_bytes());
            let gear = Self::expand(&key.derive(&label));
            // One table in some thousand would cut runs of zeros early; holes are counted on being cut at the maximum.
            if !gear.cuts_zeros() {
                return gear;
            }
            attempt += 1;
        }
    }

    fn expand(secret: &[u8; 32]) -> Self {
        let mut once = [0; 256];
        for (block, numbers) in (0_u32..).zip(once.chunks_exact_mut(4)) {
            let digest = Sha256::new().chain_update(secret).chain_update(block.to_le_bytes()).finalize();
            for (number, bytes) in numbers.iter_mut().zip(digest.as_chunks::<8>().0) {
                *number = u64::from_le_bytes(*bytes);
            }
        }
        Self { once, twice: once.map(|number| number << 1) }
    }

    fn cuts_zeros(&self) -> bool {
        let mut hash = 0_u64;
        (0..64).any(|_| {
            hash = (hash << 1).wrapping_add(self.once[0]);
            hash & MASK_LOOSE == 0
        })
    }

    fn cut(&self, data: &[u8], state: &mut ScanState) -> Option<usize> {
        if data.len() < MIN {
            return None;
        }
        let data = &data[..data.len().min(MAX)];
        state.position = state.position.max(MIN);
        for (limit, mask) in [(NORMAL, MASK_STRICT), (MAX, MASK_LOOSE)] {
            if let Some(cut) = self.scan(data, limit, mask, state) {
                return Some(cut);
            }
        }
        (data.len() == MAX).then_some(MAX)
    }

    /// Looks for a cut before `limit`, two bytes a step; an odd last byte waits for the next call. (Several places side
    /// by side, as for Rabin, are no faster: here the work is the limit, not the wait for the step before.)
    fn scan(&self, data: &[u8], limit: usize, mask: u64, state: &mut ScanState) -> Option<usize> {
        let end = data.len().min(limit);
        let mut hash = state.hash;
        let pairs = data.get(state.position..end)?.as_chunks::<2>().0;
        for (step, [first, second]) in pairs.iter().enumerate() {
            // After the first addition this is the hash times two: the mask moves along.
            hash = (hash << 2).wrapping_add(self.twice[usize::from(*first)]);
            if hash & (mask << 1) == 0 {
                return Some(state.position + 2 * step + 1);
            }
            hash = hash.wrapping_add(self.once[usize::from(*second)]);
            if hash & mask == 0 {
                return Some(state.position + 2 * step + 2);
            }
        }
        state.position += 2 * pairs.len();
        state.hash = hash;
        None
    }
}

/// Tables of the rolling Rabin fingerprint.
pub struct Rabin {
    reduce: [u64; 256],
    leave: [u64; 256],
}

impl Rabin {
    /// The tables for a polynomial of degree 53.
    #[must_use]
    pub fn new(polynomial: u64) -> Self {
        let mut reduce = [0; 256];
        for (byte, entry) in (0_u64..).zip(&mut reduce) {
            let high = u128::from(byte) << DEGREE;
            *entry = remainder(high, polynomial) ^ (byte << DEGREE);
        }
        let mut rabin = Self { reduce, leave: [0; 256] };
        for byte in 0..=255_u8 {
            let mut hash = rabin.append(0, byte);
            for _ in 1..WINDOW {
                hash = rabin.append(hash, 0);
            }
            rabin.leave[usize::from(byte)] = hash;
        }
        rabin
    }

    #[inline]
    fn append(&self, hash: u64, byte: u8) -> u64 {
        let top = (hash >> (DEGREE - 8)) as u8;
        (hash << 8 | u64::from(byte)) ^ self.reduce[usize::from(top)]
    }

    fn cut(&self, data: &[u8], state: &mut ScanState) -> Option<usize> {
        // At exactly the minimum it depends on whether more follows: the caller's end of file cuts there as well.
        if data.len() < MIN {
            return None;
        }
        let data = &data[..data.len().min(MAX)];
        if state.position == 0 {
            state.hash = data[MIN - WINDOW..MIN].iter().fold(0, |hash, byte| self.append(hash, *byte));
            state.position = MIN;
        }
        if state.hash & RABIN_MASK == 0 {
            return Some(state.position);
        }
        // The fingerprint knows its window only, so several places can be looked at side by side, which hides the time
        // that each step waits for the one before. A block with a cut in it is gone through again, in order.
        while let Some(block) = data[state.position - WINDOW..].first_chunk::<{ WINDOW + BLOCK }>() {
            let Some(last) = self.pass(block, state.hash) else { break };
            state.hash = last;
            state.position += BLOCK;
        }
        self.scan_in_order(data, state)
    }

    /// The fingerprint behind a block without a cut; none if there is one. The block comes with the window before it.
    fn pass(&self, block: &[u8; WINDOW + BLOCK], hash: u64) -> Option<u64> {
        let mut lanes = [hash; LANES];
        for (lane, start) in lanes.iter_mut().zip((0..BLOCK).step_by(SEGMENT)).skip(1) {
            *lane = block[start..start + WINDOW].iter().fold(0, |hash, byte| self.append(hash, *byte));
        }
        for at in 0..SEGMENT {
            let mut cut = false;
            for (lane, hash) in lanes.iter_mut().enumerate() {
                let (old, new) = (block[lane * SEGMENT + at], block[lane * SEGMENT + at + WINDOW]);
                *hash = self.append(*hash ^ self.leave[usize::from(old)], new);
                cut |= *hash & RABIN_MASK == 0;
            }
            if cut {
                return None;
            }
        }
        Some(lanes[LANES - 1])
    }

    fn scan_in_order(&self, data: &[u8], state: &mut ScanState) -> Option<usize> {
        let mut hash = state.hash;
        let leaving = &data[state.position - WINDOW..data.len() - WINDOW];
        for (step, (old, new)) in leaving.iter().zip(&data[state.position..]).enumerate() {
            hash = self.append(hash ^ self.leave[usize::from(*old)], *new);
            if hash & RABIN_MASK == 0 {
                return Some(state.position + step + 1);
            }
        }
        state.position = data.len();
        state.hash = hash;
        (data.len() == MAX).then_some(MAX)
    }
}

/// The remainder of a division of polynomials over GF(2).
fn remainder(mut value: u128, polynomial: u64) -> u64 {
    let degree = |value: u128| 127 - value.leading_zeros();
    let divisor = u128::from(polynomial);
    while value != 0 && degree(value) >= degree(divisor) {
        value ^= divisor << (degree(value) - degree(divisor));
    }
    value as u64
}

fn multiply(a: u64, b: u64, polynomial: u64) -> u64 {
    let product = (0..64).filter(|bit| b >> bit & 1 == 1).fold(0_u128, |sum, bit| sum ^ u128::from(a) << bit);
    remainder(product, polynomial)
}

/// Whether restic takes this number for a chunker polynomial: irreducible over GF(2), of degree 53.
#[must_use]
pub fn is_irreducible(polynomial: u64) -> bool {
    if 63_u32.checked_sub(polynomial.leading_zeros()) != Some(DEGREE) {
        return false;
    }
    // Rabin's test for a prime degree: no root in GF(2), and x^(2^53) = x.
    let no_root = polynomial & 1 == 1 && polynomial.count_ones() % 2 == 1;
    no_root && (0..DEGREE).fold(2, |power, _| multiply(power, power, polynomial)) == 2
}

/// A random irreducible polynomial of degree 53.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn random_polynomial() -> Result<u64, RandomError> {
    loop {
        let mut bytes = [0; 8];
        random(&mut bytes)?;
        let polynomial = u64::from_le_bytes(bytes) & ((1 << DEGREE) - 1) | 1 << DEGREE | 1;
        if is_irreducible(polynomial) {
            return Ok(polynomial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> MasterKey {
        MasterKey::from_bytes(&std::array::from_fn(|at| at as u8))
    }

    /// Pseudo-random bytes, the same in every run.
    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let mut data = Vec::with_capacity(length + 8);
        while data.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            data.extend_from_slice(&state.to_le_bytes());
        }
        data.truncate(length);
        data
    }

    fn lengths(chunker: &ChunkerParams, data: &[u8]) -> Vec<usize> {
        let mut rest = data;
        let mut lengths = Vec::new();
        while let Some(length) = chunker.cut(rest) {
            lengths.push(length);
            rest = &rest[length..];
        }
        if !rest.is_empty() {
            lengths.push(rest.len());
        }
        lengths
    }

    /// The reference's algorithm of section 14, word for word, without tables and without lanes.
    fn rabin_slowly(polynomial: u64, data: &[u8]) -> Vec<usize> {
        let append = |hash: u64, byte: u8| remainder(u128::from(hash) << 8 | u128::from(byte), polynomial);
        let leaving: Vec<u64> =
            (0..=255_u8).map(|byte| (1..WINDOW).fold(append(0, byte), |hash, _| append(hash, 0))).collect();
        let mut lengths = Vec::new();
        let mut rest = data;
        while rest.len() > MIN {
            let mut length = MIN;
            let mut hash = rest[MIN - 64..MIN].iter().fold(0, |hash, byte| append(hash, *byte));
            while hash & 0xF_FFFF != 0 && length < MAX && length < rest.len() {
                hash = append(hash ^ leaving[usize::from(rest[length - 64])], rest[length]);
                length += 1;
            }
            lengths.push(length);
            rest = &rest[length..];
        }
        if !rest.is_empty() {
            lengths.push(rest.len());
        }
        lengths
    }

    #[test]
    fn rabin_cuts_where_the_reference_says() {
        let polynomial = 0x3d_a335_8b4d_c173;
        let data = noise(12_000_001, 7);
        let expected = rabin_slowly(polynomial, &data);
        assert!(expected.len() > 3);
        assert_eq!(lengths(&ChunkerParams::rabin(polynomial), &data), expected);
    }

    #[test]
    fn cuts_do_not_depend_on_how_the_bytes_arrive() {
        let data = noise(12_000_000, 3);
        for chunker in [ChunkerParams::fast_cdc(&key()), ChunkerParams::rabin(0x3d_a335_8b4d_c173)] {
            let expected = lengths(&chunker, &data);
            let mut found = Vec::new();
            let mut start = 0;
            let mut state = ScanState::default();
            let mut end = 0;
            // Odd and growing steps, with one of a single byte now and then.
            for step in (1_usize..).map(|number| if number % 5 == 0 { 1 } else { number * 1371 % 90_001 }) {
                end = (end + step).min(data.len());
                while let Some(length) = chunker.cut_from(&data[start..end], &mut state) {
                    found.push(length);
                    start += length;
                    state = ScanState::default();
                }
                if end == data.len() {
                    break;
                }
            }
            found.push(data.len() - start);
            assert_eq!(found, expected, "{chunker:?}");
        }
    }

    #[test]
    fn an_insertion_moves_the_cuts_behind_it_along() {
        let data = noise(24_000_000, 11);
        let mut changed = data.clone();
        changed.splice(5_000_000..5_000_000, *b"inserted");
        for chunker in [ChunkerParams::fast_cdc(&key()), ChunkerParams::rabin(0x3d_a335_8b4d_c173)] {
            let chunks = |data: &[u8]| {
                let mut rest = data;
                lengths(&chunker, data)
                    .into_iter()
                    .map(|length| {
                        let (chunk, later) = rest.split_at(length);
                        rest = later;
                        Sha256::digest(chunk).to_vec()
                    })
                    .collect::<Vec<_>>()
            };
            let (before, after) = (chunks(&data), chunks(&changed));
            let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
            assert!(new <= 4 && before.len() > 10, "{chunker:?}: {new} of {} chunks are new", after.len());
        }
    }

    #[test]
    fn chunks_keep_their_limits_and_their_mean() {
        let chunker = ChunkerParams::fast_cdc(&key());
        let lengths = lengths(&chunker, &noise(96 << 20, 1));
        let (last, whole) = lengths.split_last().unwrap();
        assert!(whole.iter().all(|length| (MIN..=MAX).contains(length)) && *last <= MAX);
        let mean = (96 << 20) / lengths.len();
        assert!((1_000_000..1_700_000).contains(&mean), "mean {mean}");
    }

    #[test]
    fn zeros_are_cut_as_promised() {
        let zeros = vec![0; 3 * MAX];
        for chunker in [ChunkerParams::fast_cdc(&key()), ChunkerParams::rabin(0x3d_a335_8b4d_c173)] {
            assert_eq!(chunker.cut(&zeros), Some(chunker.zero_chunk_len()), "{chunker:?}");
            assert!(lengths(&chunker, &zeros).iter().all(|length| *length == chunker.zero_chunk_len()));
        }
        for seed in 0..200_u8 {
            let gear = Gear::derive(&MasterKey::from_bytes(&[seed; 64]));
            assert!(!gear.cuts_zeros());
        }
    }

    #[test]
    fn short_data_has_no_cut() {
        for chunker in [ChunkerParams::fast_cdc(&key()), ChunkerParams::rabin(0x3d_a335_8b4d_c173)] {
            assert_eq!(chunker.cut(b""), None);
            assert_eq!(chunker.cut(&noise(MIN - 1, 5)), None);
        }
    }

    #[test]
    fn gear_tables_belong_to_the_key() {
        let other = MasterKey::from_bytes(&[9; 64]);
        assert_ne!(Gear::derive(&key()).once, Gear::derive(&other).once);
        assert_eq!(Gear::derive(&key()).once, Gear::derive(&key()).once);
        // A table that changes would end deduplication with everything stored before.
        assert_eq!(Gear::derive(&key()).once[0], 0xd3cb_3941_96c2_7ad6);
    }

    #[test]
    fn irreducible_polynomials_are_told_from_others() {
        assert!(is_irreducible(0x3d_a335_8b4d_c173));
        for reducible in [0, 1, 3, 0x3d_a335_8b4d_c175, 0x3d_a335_8b4d_c172, 0x1d_a335_8b4d_c173, u64::MAX] {
            assert!(!is_irreducible(reducible), "{reducible:x}");
        }
        // A product of two polynomials without roots: x^2 + x + 1 and one of degree 51.
        let product =
            (0..=51).filter(|bit| 0x000a_335f_8b4d_c173_u64 >> bit & 1 == 1).fold(0_u64, |sum, bit| sum ^ 7 << bit);
        assert!(!is_irreducible(product | 1 << 53));
        for _ in 0..20 {
            let polynomial = random_polynomial().unwrap();
            assert!(is_irreducible(polynomial));
            assert_eq!(polynomial >> 53, 1);
        }
    }
}
