//! The words of the protocol as bytes, without input or output. All numbers are big-endian.
//!
//! Reading never panics and allocates no more than it was given; what the other side wrote is a value or an error.

pub mod answer;
pub mod error;
pub mod option;
pub mod reply;
pub mod request;

/// Most bytes in a string: a name, a description, a query (reference 11).
pub const MAX_STRING: usize = 4096;

/// Takes big-endian words off the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<'a>(pub(crate) &'a [u8]);

impl<'a> Words<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string behind its length.
    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?).filter(|text| is_string(text))
    }
}

/// Whether it may be a name, a description or a query: not too long and without a NUL.
#[must_use]
pub fn is_string(text: &[u8]) -> bool {
    text.len() <= MAX_STRING && !text.contains(&0)
}
