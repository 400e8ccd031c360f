//! Messages that are encrypted by a passphrase, as the database extension pgcrypto writes them (RFC 4880): enough to read a
//! password, and nothing else of OpenPGP.
//!
//! A packet tells how the key comes out of the passphrase, the next one holds the data with a checksum in it. Ciphers are AES,
//! digests SHA-1 and SHA-2: what pgcrypto and GnuPG use unless they are told otherwise. Data without a checksum is refused.

use std::io::Read;

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128Enc, Aes192Enc, Aes256Enc};
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// The block of AES, in bytes.
const BLOCK: usize = 16;
/// No more comes out of compressed data, in bytes.
const LARGEST: u64 = 1 << 16;

/// What is inside a message.
///
/// # Errors
/// One line: it is no such message, is damaged, uses what is not known here, or the passphrase is another one.
pub(crate) fn decrypt(message: &[u8], passphrase: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut session = None;
    for (tag, body) in packets(message)? {
        match tag {
            3 => session = Some(session_key(&body, passphrase)?),
            9 => return Err("it has no checksum (it was made with disable-mdc)"),
            18 => {
                let (cipher, key) = session.ok_or("it says nothing of a passphrase")?;
                return literal(&packets(&protected(cipher, &key, &body)?)?);
            }
            // A marker.
            10 => {}
            _ => return Err("it is not encrypted by a passphrase"),
        }
    }
    Err("it holds no data")
}

/// Packets with their tags (4.2).
fn packets(mut bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, &'static str> {
    const SHORT: &str = "it is cut short";
    let mut packets = Vec::new();
    while let Some((&head, rest)) = bytes.split_first() {
        bytes = rest;
        let mut take = |count: usize| -> Result<&[u8], &'static str> {
            let (taken, rest) = bytes.split_at_checked(count).ok_or(SHORT)?;
            bytes = rest;
            Ok(taken)
        };
        let number = |bytes: &[u8]| bytes.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        if head & 0x80 == 0 {
            return Err("it is no OpenPGP message");
        }
        if head & 0x40 == 0 {
            let size = match head & 3 {
                3 => {
                    packets.push((head >> 2 & 0xf, bytes.to_vec()));
                    break;
                }
                kind => number(take(1 << kind)?),
            };
            packets.push((head >> 2 & 0xf, take(size)?.to_vec()));
            continue;
        }
        let mut body = Vec::new();
        loop {
            let first = usize::from(take(1)?[0]);
            let (size, is_last) = match first {
                0..192 => (first, true),
                192..224 => ((first - 192) * 256 + usize::from(take(1)?[0]) + 192, true),
                255 => (number(take(4)?), true),
                _ => (1 << (first & 0x1f), false),
            };
            body.extend_from_slice(take(size)?);
            if is_last {
                break;
            }
        }
        packets.push((head & 0x3f, body));
    }
    Ok(packets)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
}

impl Cipher {
    fn of(number: u8) -> Result<Self, &'static str> {
        match number {
            7 => Ok(Self::Aes128),
            8 => Ok(Self::Aes192),
            9 => Ok(Self::Aes256),
            _ => Err("its cipher is not AES"),
        }
    }

    fn key_size(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }

    /// Decrypts with feedback, beginning with zeros (13.9 without the resynchronisation).
    fn decrypt(self, key: &[u8], data: &[u8]) -> Result<Vec<u8>, &'static str> {
        let wrong = |_| "its key has the wrong length";
        match self {
            Self::Aes128 => Aes128Enc::new_from_slice(key).map_err(wrong).map(|cipher| feedback(&cipher, data)),
            Self::Aes192 => Aes192Enc::new_from_slice(key).map_err(wrong).map(|cipher| feedback(&cipher, data)),
            Self::Aes256 => Aes256Enc::new_from_slice(key).map_err(wrong).map(|cipher| feedback(&cipher, data)),
        }
    }
}

fn feedback<C: BlockCipherEncrypt>(cipher: &C, data: &[u8]) -> Vec<u8> {
    let mut block = aes::cipher::Block::<C>::default();
    let mut out = Vec::with_capacity(data.len());
    for piece in data.chunks(block.len()) {
        cipher.encrypt_block(&mut block);
        out.extend(piece.iter().zip(&block).map(|(byte, key)| byte ^ key));
        block.iter_mut().zip(piece).for_each(|(next, byte)| *next = *byte);
    }
    out
}

/// The cipher of the data and its key (5.3).
fn session_key(body: &[u8], passphrase: &[u8]) -> Result<(Cipher, Vec<u8>), &'static str> {
    const SHORT: &str = "it is cut short";
    let (head, rest) = body.split_at_checked(4).ok_or(SHORT)?;
    let &[version, cipher, how, digest] = head else { return Err(SHORT) };
    if version != 4 {
        return Err("it is of another version of OpenPGP");
    }
    let cipher = Cipher::of(cipher)?;
    let salted = matches!(how, 1 | 3);
    let (salt, rest) = rest.split_at_checked(if salted { 8 } else { 0 }).ok_or(SHORT)?;
    let (count, rest) = match how {
        0 | 1 => (0, rest),
        3 => {
            let (&coded, rest) = rest.split_first().ok_or(SHORT)?;
            ((16 + usize::from(coded & 15)) << (usize::from(coded >> 4) + 6), rest)
        }
        _ => return Err("it makes its key in an unknown way"),
    };
    let seed = [salt, passphrase].concat();
    let size = cipher.key_size();
    let key = match digest {
        2 => stretched::<Sha1>(&seed, count, size),
        8 => stretched::<Sha256>(&seed, count, size),
        9 => stretched::<Sha384>(&seed, count, size),
        10 => stretched::<Sha512>(&seed, count, size),
        11 => stretched::<Sha224>(&seed, count, size),
        _ => return Err("its digest is not of the SHA family"),
    };
    if rest.is_empty() {
        return Ok((cipher, key));
    }
    // The data has a key of its own, which this one encrypts.
    let inner = cipher.decrypt(&key, rest)?;
    let (&number, key) = inner.split_first().ok_or(SHORT)?;
    // Anything may come out with another passphrase.
    let cipher = Cipher::of(number).map_err(|_| "the key does not fit")?;
    if key.len() == cipher.key_size() { Ok((cipher, key.to_vec())) } else { Err("the key does not fit") }
}

/// A key out of a passphrase: so many bytes of it again and again, but all of it once at least (3.7.1).
fn stretched<D: Digest>(seed: &[u8], count: usize, size: usize) -> Vec<u8> {
    let mut key = Vec::new();
    let mut zeros = 0;
    while key.len() < size {
        let mut digest = D::new();
        digest.update(vec![0; zeros]);
        let mut left = count.max(seed.len());
        while left > 0 {
            let piece = &seed[..left.min(seed.len())];
            digest.update(piece);
            left -= piece.len();
            if piece.is_empty() {
                break;
            }
        }
        key.extend_from_slice(&digest.finalize());
        zeros += 1;
    }
    key.truncate(size);
    key
}

/// What a packet with a checksum holds (5.13): packets.
fn protected(cipher: Cipher, key: &[u8], body: &[u8]) -> Result<Vec<u8>, &'static str> {
    let (&version, body) = body.split_first().ok_or("it is cut short")?;
    if version != 1 {
        return Err("it is of another version of OpenPGP");
    }
    let plain = cipher.decrypt(key, body)?;
    if plain.len() < BLOCK + 2 + 22 {
        return Err("it is cut short");
    }
    if plain[BLOCK - 2..BLOCK] != plain[BLOCK..BLOCK + 2] {
        return Err("the key does not fit");
    }
    let (covered, sum) = plain.split_at(plain.len() - 20);
    if <[u8; 20]>::from(Sha1::digest(covered)) != *sum || !covered.ends_with(&[0xd3, 0x14]) {
        return Err("it is damaged");
    }
    Ok(covered[BLOCK + 2..covered.len() - 2].to_vec())
}

/// The data itself (5.9), out of what may compress it (5.6).
fn literal(packets: &[(u8, Vec<u8>)]) -> Result<Vec<u8>, &'static str> {
    const STRANGE: &str = "it holds something else than data";
    let [(tag, body)] = packets else { return Err(STRANGE) };
    match (tag, body.split_first()) {
        (11, Some((_, rest))) => {
            let (&name, rest) = rest.split_first().ok_or(STRANGE)?;
            rest.get(usize::from(name) + 4..).map(<[u8]>::to_vec).ok_or(STRANGE)
        }
        (8, Some((how, rest))) => {
            let mut plain = Vec::new();
            let read = match how {
                0 => rest.take(LARGEST).read_to_end(&mut plain),
                1 => flate2::read::DeflateDecoder::new(rest).take(LARGEST).read_to_end(&mut plain),
                2 => flate2::read::ZlibDecoder::new(rest).take(LARGEST).read_to_end(&mut plain),
                _ => return Err("its compression is unknown"),
            };
            read.map_err(|_| "it is damaged")?;
            let inner = self::packets(&plain)?;
            // Once, not again and again.
            if matches!(inner.as_slice(), [(8, _)]) { Err(STRANGE) } else { literal(&inner) }
        }
        _ => Err(STRANGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"the key in .encrypt";

    fn bytes(hex: &str) -> Vec<u8> {
        crate::encrypted::unhex(hex).unwrap()
    }

    #[test]
    fn what_pgcrypto_encrypts_is_read() {
        // pgp_sym_encrypt of PostgreSQL 15, with its defaults and with the options named.
        for message in [
            "c30d04070302bca07e77264db0876bd24a012394d8b13bf85838a0af6140a592254ae602c8c0a0a31f1ac25d54611f425a17747ec1b333bd2b2c26fac6383123b979280d4f0ae83e09d1a990516b74cee65a89edaff392e7d4fcdd",
            // cipher-algo=aes256, s2k-digest-algo=sha256
            "c30d040903082609d0269fd364fa61d24a017d488cf2086cbc8eac8ba5b729109bd2eb2eb47f8cf814e3f03e5d96caa02dff2dc2e748ed2a503bcbd0b9536194c855bf9dfe5a41da9caede473076541a10ddc075c9f8dfc14f0673",
            // cipher-algo=aes192, s2k-mode=1
            "c30c04080102324da0fc93b6e5a2d24a01d1487ad64f3e96a704ce91645ca3f4f72ea61c262eab7806a90f341eb20463db221ea1f490200e64abc68976f2bbbb0f48bd906c5430642ebf45ccf96ff3ee15657ae92b0b917cee99",
            // s2k-mode=0
            "c30404070002d24a018948a2cdba69c4b4e0cb5f367c346d8e46f36d33a8cea8f775dd682f4cb9bd9e272b189f1456f7e2f4520541c643b57e5b9ca0679c153d781e09a681e35b74e0fc6244d8659cf22d7b",
            // compress-algo=1
            "c30d0407030254330ac55c9ecdf873d24f017cc2a12cc24d9163e9fb1c1a2ca7007009308e3e6555fdb5778389c1c2615badef42d7b63f079d2cfec32dccd9418437b489d8716747ee391b07fb724849dbc3e6a4ae71f51c0f0bc1c9a3356a42",
            // compress-algo=2, sess-key=1
            "c31e04070302dcc2ba6ccff6dc866b8de4db513fb12180d78e6161f6f04d3b5bd25501d4caf9faecd25de01027ad3c4a8cea6614ce73948c3b3ccf7fe2bcfd9e4ec3bda0cc0771d7ab0c7055e998d03be368874ad67519928b1f6b84033a7e562a3d8d58aa32433a7a63d457ef182b2300f9363873cb47",
        ] {
            let message = bytes(message);
            assert_eq!(decrypt(&message, KEY).as_deref(), Ok(&b"s3cr3t/+Key of the bucket"[..]));
            assert_eq!(decrypt(&message, b"another").unwrap_err(), "the key does not fit");
            for at in 0..message.len() {
                assert!(decrypt(&message[..at], KEY).is_err(), "{at}");
                let mut wrong = message.clone();
                wrong[at] ^= 4;
                assert_ne!(decrypt(&wrong, KEY).as_deref(), Ok(&b"s3cr3t/+Key of the bucket"[..]), "{at}");
            }
        }
        let empty = "c30d040703025d46feb8e69b99227bd23101b1ec98494f5959184e24655d5241b0887ae1d2b0e96db35109e0896430a7cd4994b2d88109198d7913cc155d1493d343";
        assert_eq!(decrypt(&bytes(empty), KEY).as_deref(), Ok(&b""[..]));
        let utf8 = "c30d040703022f4bbff6b313602f77d23601a07b0bd0cb76c9c0f827d030ba6d80aed53b06468e605bc8020847e12459a20447f9efea82f91544d3e7c99db357e1f449bef8535f";
        assert_eq!(decrypt(&bytes(utf8), KEY).as_deref(), Ok("grün".as_bytes()));
    }

    #[test]
    fn what_gnupg_encrypts_is_read() {
        // gpg 2.2 --symmetric, and with -z 0 --cipher-algo AES128 --s2k-digest-algo SHA512.
        for message in [
            "8c0d040903029a6340b514716c22ffd2430119a592dfcdb9da559589ecf26997ee8c24f973235598ed8f6e42ac01b46c67403a6443fd7f545ea8d10290757d28b7c197935ed1aa914fcb4e9c0b9879594852f2dc",
            "8c0d0407030a36115e821ced48b1ffd23f01227a211fff0c1f6ecc7b6070c6389ca798fc0d847e77ce8f29a4ac12196926e6c9ffe33a44a46e4ae516bb15441dee0e8e4a676db4753a5f19cb5e21ac42",
        ] {
            assert_eq!(decrypt(&bytes(message), KEY).as_deref(), Ok(&b"s3cr3t of gpg"[..]));
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (message, part) in [
            // disable-mdc=1
            (
                "c30d04070302e606db9bf5b42ee778c933e4c23afdb10718299bb29c7e13bdaca3610c0f1797b9d8a6bc7ba1362fad31e6ce836c3dabe075a3243d2bd3e84434e2606ced",
                "no checksum",
            ),
            // cipher-algo=bf
            ("c30d040403029d1dece8cfe1600862", "AES"),
            ("", "no data"),
            ("00", "no OpenPGP message"),
            ("d20201ff", "nothing of a passphrase"),
            ("cb0562000000", "cut short"),
            ("cb0462000000", "not encrypted"),
        ] {
            let reason = decrypt(&bytes(message), KEY).unwrap_err();
            assert!(reason.contains(part), "{message}: {reason}");
        }
    }
}
