//! What a server encrypts with (reference 10.8): the options, the folders where certificates are looked for, and what becomes
//! of it when there are none.

use std::path::{Path, PathBuf};

use backstay_nbd::handshake::Encryption;
use backstay_nbd::tls::{CA_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY, ServerCredentials};

use crate::log;
use crate::options::{Options, TlsMode};

/// Where a server that runs as root looks for certificates.
pub const ROOT_FOLDER: &str = "/etc/pki/nbdkit";
/// Where others look, below their home.
const HOME_FOLDERS: [&str; 2] = [".pki/nbdkit", ".config/pki/nbdkit"];

/// Where the credentials of a server come from; clients on the same host find theirs there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of certificates.
    Certificates(PathBuf),
    /// A file of keys.
    Keys(PathBuf),
}

/// How a server encrypts.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Whether it offers or requires it.
    pub encryption: Encryption,
    /// What with, unless it does not.
    pub credentials: Option<ServerCredentials>,
    /// Where that came from, if clients need to be told: it was named, or they have to encrypt.
    pub source: Option<Source>,
}

impl Tls {
    /// Finds and loads what the options ask for. To be called while the process may still read it. Paths are made absolute.
    ///
    /// # Errors
    /// One sentence: what was named cannot be used, or nothing was found and `--tls=require`.
    pub fn load(options: &Options) -> Result<Self, String> {
        let encryption = match options.tls {
            Some(TlsMode::Off) => return Ok(Self::default()),
            Some(TlsMode::Require) => Encryption::Required,
            // Nothing in the old style can ask for it.
            mode if options.oldstyle => {
                if mode.is_some() {
                    log::say("warning: --tls=on: the old style (-o) has no encryption");
                }
                return Ok(Self::default());
            }
            Some(TlsMode::On) | None => Encryption::Offered,
        };
        match source(options)? {
            Some(source) => {
                let credentials = match &source {
                    Source::Certificates(folder) => ServerCredentials::certificates(folder, options.tls_verify_peer),
                    Source::Keys(file) => ServerCredentials::keys(file),
                };
                let credentials = credentials.map_err(|error| error.to_string())?;
                let named = options.tls_psk.is_some() || options.tls_certificates.is_some();
                let told = named || encryption == Encryption::Required;
                Ok(Self { encryption, credentials: Some(credentials), source: told.then_some(source) })
            }
            None if encryption == Encryption::Required => Err("--tls=require: no TLS certificates were found; name \
                their folder with --tls-certificates, or a file of keys with --tls-psk"
                .to_owned()),
            None => {
                let asked =
                    options.tls.map(|_| "--tls=on").or(options.tls_certificates.as_ref().map(|_| "--tls-certificates"));
                if let Some(option) = asked {
                    log::say(&format!("warning: {option}: no TLS certificates were found, so TLS is off"));
                }
                Ok(Self::default())
            }
        }
    }
}

/// Where the credentials are; none: there are none.
fn source(options: &Options) -> Result<Option<Source>, String> {
    if let Some(file) = &options.tls_psk {
        let file = std::path::absolute(file).map_err(|error| format!("--tls-psk: {}: {error}", file.display()))?;
        return Ok(Some(Source::Keys(file)));
    }
    let folders = match &options.tls_certificates {
        Some(folder) => vec![
            std::path::absolute(folder)
                .map_err(|error| format!("--tls-certificates: {}: {error}", folder.display()))?,
        ],
        None => default_folders(rustix::process::geteuid().is_root(), std::env::home_dir().as_deref()),
    };
    Ok(folders.into_iter().find(|folder| has_certificates(folder)).map(Source::Certificates))
}

fn default_folders(root: bool, home: Option<&Path>) -> Vec<PathBuf> {
    match home {
        _ if root => vec![ROOT_FOLDER.into()],
        Some(home) => HOME_FOLDERS.iter().map(|folder| home.join(folder)).collect(),
        None => Vec::new(),
    }
}

fn has_certificates(folder: &Path) -> bool {
    [CA_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY].iter().all(|name| folder.join(name).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_others_have_their_places() {
        let home = Path::new("/home/a");
        assert_eq!(default_folders(true, Some(home)), [Path::new("/etc/pki/nbdkit")]);
        let own = [Path::new("/home/a/.pki/nbdkit"), Path::new("/home/a/.config/pki/nbdkit")];
        assert_eq!(default_folders(false, Some(home)), own);
        assert_eq!(default_folders(false, None), [] as [PathBuf; 0]);
    }

    #[test]
    fn nothing_found_is_an_error_only_where_it_is_required() {
        let folder = tempfile::tempdir().unwrap();
        let with = |tls| Options { tls, tls_certificates: Some(folder.path().to_owned()), ..Options::default() };
        for mode in [None, Some(TlsMode::On), Some(TlsMode::Off)] {
            assert_eq!(Tls::load(&with(mode)).unwrap().encryption, Encryption::Off, "{mode:?}");
        }
        assert!(Tls::load(&with(Some(TlsMode::Require))).unwrap_err().contains("--tls=require"));
        // What is there and broken is an error.
        [CA_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY]
            .iter()
            .for_each(|name| std::fs::write(folder.path().join(name), "x").unwrap());
        assert!(Tls::load(&with(None)).unwrap_err().contains(CA_CERTIFICATE));
        assert_eq!(Tls::load(&with(Some(TlsMode::Off))).unwrap().encryption, Encryption::Off);
    }

    #[test]
    fn a_file_of_keys_replaces_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let options = Options { tls_psk: Some(file.clone()), ..Options::default() };
        assert!(Tls::load(&options).unwrap_err().contains("keys"));
        std::fs::write(&file, "alice:00\n").unwrap();
        let tls = Tls::load(&options).unwrap();
        assert_eq!((tls.encryption, tls.source), (Encryption::Offered, Some(Source::Keys(file))));
    }
}
