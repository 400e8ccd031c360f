//! Key files: the repository's key, wrapped in one made of a password (reference section 4).

use backstay_core::{Id, Time};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::crypto::{CryptoError, MasterKey, random};
use crate::error::Error;
use crate::gotext::{parse_time, to_json, write_time};
use crate::tree::NO_TIME;

/// Memory that scrypt may take, in bytes.
const MAX_MEMORY: u64 = 1 << 30;
/// Bytes that scrypt may go through: half a minute's work. A key file is read before anything is proven, and whoever can
/// write into the store could else hold up everybody for days.
const MAX_WORK: u64 = 16 << 30;
const SALT_LEN: usize = 64;

/// How much work it is to try a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfParams {
    /// Binary logarithm of scrypt's cost `N`.
    pub log_n: u8,
    /// scrypt's block size.
    pub r: u32,
    /// scrypt's parallelism.
    pub p: u32,
}

impl Default for KdfParams {
    /// What restic starts from: 32 MiB.
    fn default() -> Self {
        Self { log_n: 15, r: 8, p: 1 }
    }
}

/// Why a key file gives no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The password does not fit this key.
    #[error("the password does not open this key")]
    WrongPassword,
    /// The file is not what it should be.
    #[error("{0}")]
    Damaged(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct KeyFile {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    hostname: Option<String>,
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
    salt: String,
    data: String,
}

#[derive(Serialize, Deserialize)]
struct MasterKeyFile {
    mac: MacKeyFile,
    encrypt: String,
}

#[derive(Serialize, Deserialize)]
struct MacKeyFile {
    k: String,
    r: String,
}

fn derive(password: &[u8], salt: &[u8], params: KdfParams) -> Result<MasterKey, String> {
    let KdfParams { log_n, r, p } = params;
    let memory = 1_u64.checked_shl(u32::from(log_n)).and_then(|n| n.checked_mul(128 * u64::from(r)));
    let blocks = 128 * u64::from(r) * u64::from(p);
    if memory.is_none_or(|memory| memory > MAX_MEMORY) || blocks > MAX_MEMORY {
        return Err(format!("its scrypt parameters (N=2^{log_n}, r={r}, p={p}) ask for more than 1 GiB of memory"));
    }
    if memory.and_then(|memory| memory.checked_mul(p.into())).is_none_or(|work| work > MAX_WORK) {
        return Err(format!("its scrypt parameters (N=2^{log_n}, r={r}, p={p}) ask for minutes of work"));
    }
    let refused = || format!("its scrypt parameters (N=2^{log_n}, r={r}, p={p}) are not valid");
    let params = scrypt::Params::new(log_n, r, p).map_err(|_| refused())?;
    let mut bytes = [0; 64];
    scrypt::scrypt(password, salt, &params, &mut bytes).map_err(|_| refused())?;
    let key = MasterKey::from_bytes(&bytes);
    bytes.fill(0);
    Ok(key)
}

/// Who makes a key file: informational fields.
#[derive(Clone, Debug, Default)]
pub struct KeyOrigin {
    /// When.
    pub created: Time,
    /// The user's name.
    pub username: String,
    /// The host's name.
    pub hostname: String,
}

/// The bytes of a key file that wraps `master` for `password`.
///
/// # Errors
/// Parameters that nobody could open, or no random bytes.
pub fn wrap(master: &MasterKey, password: &[u8], params: KdfParams, origin: &KeyOrigin) -> Result<Vec<u8>, Error> {
    let other = |text: String| Error::Other(format!("a key cannot be made: {text}"));
    let mut salt = [0; SALT_LEN];
    random(&mut salt).map_err(|error| other(error.to_string()))?;
    let user_key = derive(password, &salt, params).map_err(other)?;
    let (encrypt, k, r) = master.parts();
    let plain = MasterKeyFile {
        mac: MacKeyFile { k: STANDARD.encode(k), r: STANDARD.encode(r) },
        encrypt: STANDARD.encode(encrypt),
    };
    let plain = to_json(&plain).map_err(|error| other(error.to_string()))?;
    let mut created = Vec::new();
    write_time(origin.created, &mut created);
    let file = KeyFile {
        created: Some(String::from_utf8_lossy(&created).into_owned()),
        username: Some(origin.username.clone()),
        hostname: Some(origin.hostname.clone()),
        kdf: "scrypt".to_owned(),
        n: 1 << params.log_n,
        r: params.r,
        p: params.p,
        salt: STANDARD.encode(salt),
        data: STANDARD.encode(user_key.seal(&plain)),
    };
    to_json(&file).map_err(|error| other(error.to_string()))
}

/// The repository's key out of a key file.
///
/// # Errors
/// [`KeyError`].
pub fn open(file: &[u8], password: &[u8]) -> Result<MasterKey, KeyError> {
    let damaged = |reason: String| KeyError::Damaged(reason);
    let file: KeyFile = serde_json::from_slice(file).map_err(|error| damaged(format!("not a key file: {error}")))?;
    if file.kdf != "scrypt" {
        return Err(damaged(format!("its key derivation \"{}\" is not known", file.kdf)));
    }
    if file.n < 2 || !file.n.is_power_of_two() || file.r == 0 || file.p == 0 {
        let KeyFile { n, r, p, .. } = file;
        return Err(damaged(format!("its scrypt parameters (N={n}, r={r}, p={p}) are not valid")));
    }
    let decode = |text: &str, what: &str| {
        STANDARD.decode(text).map_err(|error| damaged(format!("its {what} is not base64: {error}")))
    };
    let salt = decode(&file.salt, "salt")?;
    if salt.len() != SALT_LEN {
        return Err(damaged(format!("its salt has {} bytes instead of {SALT_LEN}", salt.len())));
    }
    let data = decode(&file.data, "data")?;
    let params = KdfParams { log_n: file.n.trailing_zeros() as u8, r: file.r, p: file.p };
    let user_key = derive(password, &salt, params).map_err(damaged)?;
    let plain = user_key.open(&data).map_err(|error| match error {
        CryptoError::Verification => KeyError::WrongPassword,
        other => damaged(other.to_string()),
    })?;
    let keys: MasterKeyFile =
        serde_json::from_slice(&plain).map_err(|error| damaged(format!("it holds no repository key: {error}")))?;
    fn exact<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], KeyError> {
        bytes
            .try_into()
            .map_err(|_| KeyError::Damaged("a part of the repository's key has the wrong length".to_owned()))
    }
    let master = MasterKey::from_parts(
        exact(decode(&keys.encrypt, "key")?)?,
        exact(decode(&keys.mac.k, "key")?)?,
        exact(decode(&keys.mac.r, "key")?)?,
    );
    if master.has_null_part() {
        return Err(damaged("a part of the repository's key is all zeros".to_owned()));
    }
    Ok(master)
}

/// What a key file says about its making: when, by whom, on which host. The error is a reason as in [`KeyError`].
pub(crate) fn origin(file: &[u8]) -> Result<(Option<Time>, String, String), String> {
    let file: KeyFile = serde_json::from_slice(file).map_err(|error| format!("not a key file: {error}"))?;
    let created = file.created.as_deref().and_then(parse_time).filter(|time| *time != NO_TIME);
    Ok((created, file.username.unwrap_or_default(), file.hostname.unwrap_or_default()))
}

/// The order in which keys are tried: those whose id begins with the hint, then the others.
pub(crate) fn order(keys: &mut [Id], hint: Option<&str>) {
    if let Some(hint) = hint.filter(|hint| !hint.is_empty()) {
        keys.sort_by_key(|id| !id.to_hex().starts_with(hint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = r#"{"created":"2020-01-02T03:04:05Z","username":"u","hostname":"h","kdf":"scrypt","N":16384,"r":8,"p":1,"salt":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==","data":"oKCgoKCgoKCgoKCgoKCgAfT/BivpimSULiNQEF2FHbN1IHt0oXgzz88p4HQmpWo+vUQUIL66vng3uatgoSyWiX2nxrSBrWmWh3c3Z/oKZCudyZ+izZQ7WpVQwPmjxIK/nlgAD0yXgwhI4g35AOgao4z4PCuRmRZznCuomswMRkva8WW16bvgRhc/rTqGR498RfebNL7NSV4roejbW12tQg=="}"#;
    const CHEAP: KdfParams = KdfParams { log_n: 4, r: 1, p: 1 };

    #[test]
    fn the_references_key_opens_with_its_password_only() {
        assert_eq!(
            Id::of(REFERENCE.as_bytes()).to_hex(),
            "e8e14270e65906da825f95dca3936e28a7f6c828a1d017536ba083fbccfe66c9"
        );
        let key = open(REFERENCE.as_bytes(), b"test").unwrap();
        let (encrypt, k, r) = key.parts();
        assert_eq!([&encrypt[..], k, r].concat(), (0..64).collect::<Vec<u8>>());
        assert_eq!(open(REFERENCE.as_bytes(), b"test\n").unwrap_err(), KeyError::WrongPassword);
    }

    #[test]
    fn a_wrapped_key_opens_again() {
        let key = MasterKey::generate().unwrap();
        let origin = KeyOrigin { created: Time::default(), username: "u<".to_owned(), hostname: "h".to_owned() };
        for params in [CHEAP, KdfParams { log_n: 5, r: 2, p: 16 }] {
            let file = wrap(&key, "pässword".as_bytes(), params, &origin).unwrap();
            let text = std::str::from_utf8(&file).unwrap();
            assert!(text.starts_with(
                r#"{"created":"1970-01-01T00:00:00Z","username":"u\u003c","hostname":"h","kdf":"scrypt","N":"#
            ));
            let salt = text.split("\"salt\":\"").nth(1).unwrap().split('"').next().unwrap();
            assert_eq!(STANDARD.decode(salt).unwrap().len(), 64);
            assert_eq!(open(&file, "pässword".as_bytes()).unwrap().parts(), key.parts());
        }
    }

    #[test]
    fn rustics_key_files_without_origin_are_read() {
        let key = MasterKey::generate().unwrap();
        let file = wrap(&key, b"p", CHEAP, &KeyOrigin::default()).unwrap();
        let mut file: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&file).unwrap();
        for name in ["created", "username", "hostname"] {
            file.remove(name);
        }
        assert!(open(&serde_json::to_vec(&file).unwrap(), b"p").is_ok());
    }

    #[test]
    fn broken_key_files_are_refused_with_the_reason() {
        for (from, to, reason) in [
            ("scrypt", "argon2", "argon2"),
            ("16384", "16383", "not valid"),
            ("16384", "1", "not valid"),
            ("\"r\":8", "\"r\":0", "not valid"),
            ("\"p\":1", "\"p\":0", "not valid"),
            ("16384", "2097152", "more than 1 GiB"),
            ("16384", "9223372036854775808", "more than 1 GiB"),
            ("\"r\":8", "\"r\":4294967295", "more than 1 GiB"),
            ("\"p\":1", "\"p\":4294967295", "more than 1 GiB"),
            ("\"p\":1", "\"p\":4000", "minutes of work"),
            ("AAEC", "AA", "base64"),
            ("AAECAwQF", "AAEC", "61 bytes"),
            ("\"salt\"", "\"sugar\"", "missing field `salt`"),
            ("oKCgoKCgoKCgoKCgoKCgAfT/", "", "1"),
            ("oKCgoKCg", "!KCgoKCg", "base64"),
        ] {
            assert!(REFERENCE.contains(from), "{from}");
            let broken = REFERENCE.replacen(from, to, 1);
            match open(broken.as_bytes(), b"test").unwrap_err() {
                KeyError::Damaged(text) => assert!(text.contains(reason), "{from} for {to}: {text}"),
                // Fewer bytes of data are only seen to be wrong by their MAC.
                KeyError::WrongPassword => assert_eq!(reason, "1", "{from} for {to}"),
            }
        }
    }

    #[test]
    fn the_hinted_key_is_tried_first() {
        let mut ids: Vec<Id> = (0..30_u8).map(|number| Id::of(&[number])).collect();
        ids.sort();
        let wanted = ids[29];
        order(&mut ids, Some(&wanted.to_hex()[..6]));
        assert_eq!(ids[0], wanted);
        let before = ids.clone();
        order(&mut ids, None);
        order(&mut ids, Some(""));
        assert_eq!(ids, before);
    }
}
