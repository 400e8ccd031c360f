//! Changes inputs at random, as a seed decides: what a test without a fuzzer can do.

/// A stream of numbers; the same seed gives the same stream.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (splitmix64).
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let state = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ (state >> 31)
    }

    /// The next number below `end`, 0 for an `end` of 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.any() % (end as u64).max(1)).unwrap_or(0)
    }
}

/// Numbers and words at which decoders stumble.
const EDGES: &[&[u8]] = &[
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"18446744073709551616",
    b"-1",
    b"1e400",
    b"null",
    b"[[[[[[[[",
    b"{\"",
    b"\\u0000",
    b"\\ud800",
    b"\\",
    b"\"",
    b"\xc3",
    b"\xf0\x9f",
];

/// Changes `input` in a few places. `other` is another input to take pieces from.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.any().to_le_bytes()[0],
            2 => input.truncate(at),
            3 => {
                let end = (at + random.below(16)).min(input.len());
                input.drain(at..end);
            }
            4 => {
                let edge = EDGES[random.below(EDGES.len())];
                let end = if random.below(2) == 0 { at } else { (at + edge.len()).min(input.len()) };
                input.splice(at..end, edge.iter().copied());
            }
            5 => {
                let from = random.below(other.len() + 1);
                let piece = &other[from..(from + random.below(64)).min(other.len())];
                input.splice(at..at, piece.iter().copied());
            }
            6 => {
                let from = random.below(input.len() + 1);
                let piece = input[from..(from + random.below(64)).min(input.len())].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                let count = random.below(9);
                input.splice(at..at, (0..count).map(|_| random.any().to_le_bytes()[0]));
            }
        }
    }
}
