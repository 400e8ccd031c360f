//! The `config` object: format version, the repository's own id, how files are cut (reference section 5).

use backstay_core::{Id, ObjectKind};
use serde::{Deserialize, Serialize};

use crate::chunker::{ChunkerParams, is_irreducible, random_polynomial};
use crate::crypto::{MasterKey, random};
use crate::error::Error;
use crate::gotext::to_json;

/// The value of `backstay_chunker` in repositories that cut with FastCDC.
const FAST_CDC: &str = "fastcdc";

/// The repository's configuration. It is never compressed and has a fixed name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Format version: 1 or 2.
    pub version: u32,
    /// A random number that belongs to the repository wherever it is moved.
    pub id: Id,
    /// The polynomial of restic's chunker, in hexadecimal digits. Always a valid one: restic tests it on opening.
    pub chunker_polynomial: String,
    /// `fastcdc` in a repository made by this program. restic and rustic ignore it, and drop it when they rewrite the
    /// file: from then on the repository is cut as they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backstay_chunker: Option<String>,
}

impl Config {
    /// The configuration of a new repository.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate(fast_cdc: bool) -> Result<Self, Error> {
        Self::generate_with(fast_cdc, None)
    }

    /// The same with the polynomial of another repository, so that restic's chunker cuts alike in both.
    ///
    /// # Errors
    /// As [`Config::generate`], and a polynomial that restic would refuse.
    pub fn generate_with(fast_cdc: bool, polynomial: Option<u64>) -> Result<Self, Error> {
        let no_random = |error: crate::crypto::RandomError| Error::Other(error.to_string());
        let mut id = Id::default();
        random(&mut id.0).map_err(no_random)?;
        let polynomial = match polynomial {
            Some(given) if is_irreducible(given) => given,
            Some(given) => return Err(Error::Other(format!("{given:x} is no polynomial that restic takes"))),
            None => random_polynomial().map_err(no_random)?,
        };
        Ok(Self {
            version: 2,
            id,
            chunker_polynomial: format!("{polynomial:x}"),
            backstay_chunker: fast_cdc.then(|| FAST_CDC.to_owned()),
        })
    }

    /// Reads the file's plain bytes.
    ///
    /// # Errors
    /// [`Error::UnsupportedVersion`], or [`Error::Damaged`] when it is no configuration, or restic would refuse its
    /// polynomial.
    pub fn decode(json: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |reason: String| Error::damaged(ObjectKind::Config, &Id::default(), reason);
        let Version { version } = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
        if !matches!(version, 1 | 2) {
            return Err(Error::UnsupportedVersion(version));
        }
        let config: Self = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
        if config.polynomial().is_none_or(|polynomial| !is_irreducible(polynomial)) {
            return Err(damaged(format!("invalid chunker polynomial \"{}\"", config.chunker_polynomial)));
        }
        Ok(config)
    }

    /// The file's plain bytes.
    ///
    /// # Errors
    /// None in practice.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        to_json(self).map_err(|error| Error::Other(error.to_string()))
    }

    /// The polynomial of restic's chunker, where that is the one that cuts; none in a repository that cuts with FastCDC.
    #[must_use]
    pub fn rabin_polynomial(&self) -> Option<u64> {
        if self.backstay_chunker.as_deref() == Some(FAST_CDC) { None } else { self.polynomial() }
    }

    fn polynomial(&self) -> Option<u64> {
        u64::from_str_radix(&self.chunker_polynomial, 16).ok()
    }

    /// How files of this repository are cut. A method that a later version wrote here and this one does not know is
    /// answered with restic's: it costs deduplication, nothing else.
    #[must_use]
    pub fn chunker(&self, key: &MasterKey) -> ChunkerParams {
        if self.backstay_chunker.as_deref() == Some(FAST_CDC) {
            ChunkerParams::fast_cdc(key)
        } else {
            // `decode` and `generate` let no other polynomial pass.
            ChunkerParams::rabin(self.polynomial().unwrap_or(0x3d_a335_8b4d_c173))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = r#"{"version":2,"id":"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff","chunker_polynomial":"3da3358b4dc173"}"#;

    #[test]
    fn the_references_config_is_written_and_read() {
        let config = Config::decode(REFERENCE.as_bytes()).unwrap();
        assert_eq!(config.encode().unwrap(), REFERENCE.as_bytes());
        let key = MasterKey::from_bytes(&[1; 64]);
        assert!(matches!(config.chunker(&key), ChunkerParams::Rabin(_)));
    }

    #[test]
    fn our_own_config_says_that_it_cuts_with_fastcdc() {
        let key = MasterKey::from_bytes(&[1; 64]);
        let config = Config::generate(true).unwrap();
        let text = String::from_utf8(config.encode().unwrap()).unwrap();
        assert!(text.ends_with(r#"","backstay_chunker":"fastcdc"}"#), "{text}");
        assert_eq!(Config::decode(text.as_bytes()).unwrap(), config);
        assert!(matches!(config.chunker(&key), ChunkerParams::FastCdc(_)));
        assert!(matches!(Config::generate(false).unwrap().chunker(&key), ChunkerParams::Rabin(_)));
        assert_ne!(Config::generate(true).unwrap().id, config.id);
    }

    #[test]
    fn other_versions_are_refused_whatever_else_they_hold() {
        for version in [0, 3, 99] {
            let text = format!(r#"{{"version":{version},"id":12}}"#);
            assert!(
                matches!(Config::decode(text.as_bytes()), Err(Error::UnsupportedVersion(found)) if found == version)
            );
        }
        let version_1 = REFERENCE.replace("\"version\":2", "\"version\":1");
        assert_eq!(Config::decode(version_1.as_bytes()).unwrap().version, 1);
    }

    #[test]
    fn what_restic_refuses_is_refused() {
        for broken in [
            String::new(),
            "{}".to_owned(),
            REFERENCE.replace("3da3358b4dc173", "3da3358b4dc175"),
            REFERENCE.replace("3da3358b4dc173", "1da3358b4dc173"),
            REFERENCE.replace("3da3358b4dc173", "zz"),
            REFERENCE.replace("0011", "xx"),
        ] {
            let error = Config::decode(broken.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Damaged { kind: ObjectKind::Config, .. }), "{broken}");
            assert!(error.to_string().starts_with("config file is damaged: "), "{error}");
        }
    }

    #[test]
    fn unknown_keys_of_rustic_are_tolerated() {
        let text = REFERENCE.replace(",\"chunker_", ",\"chunker\":\"Rabin\",\"treepack_size\":5,\"chunker_");
        assert!(Config::decode(text.as_bytes()).is_ok());
    }
}
