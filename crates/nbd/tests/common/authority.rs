//! Certificates and keys for a test: an authority that signs, a server and a client of it, and a stranger.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The user that [`Authority::keys`] knows.
pub const USER: &str = "alice";
/// Its key.
pub const KEY: &str = "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20";

/// A folder with all of it, gone with the value.
pub struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let authority = Self { folder: tempfile::tempdir().unwrap() };
        let path = authority.path("");
        authority.openssl(&format!(
            "req -x509 {} -keyout ca-key.pem -out ca-cert.pem -days 2 -subj /O=Tests/CN=signer",
            NEW_KEY
        ));
        authority.openssl(&format!(
            "req -x509 {} -keyout other-key.pem -out other-cert.pem -days 2 -subj /O=Others/CN=signer",
            NEW_KEY
        ));
        std::fs::write(path.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
        for (who, signer, folder) in [
            ("server", "ca", "server"),
            ("client", "ca", "client"),
            ("client", "other", "stranger"),
            ("server", "other", "impostor"),
        ] {
            std::fs::create_dir(path.join(folder)).unwrap();
            std::fs::copy(path.join("ca-cert.pem"), path.join(folder).join("ca-cert.pem")).unwrap();
            authority.openssl(&format!(
                "req {NEW_KEY} -keyout {folder}/{who}-key.pem -out request -subj /C=DE/O=Tests/CN={folder}"
            ));
            authority.openssl(&format!(
                "x509 -req -in request -CA {signer}-cert.pem -CAkey {signer}-key.pem -CAcreateserial -days 2 -extfile names -out {folder}/{who}-cert.pem"
            ));
        }
        // One that trusts and shows nothing.
        std::fs::create_dir(path.join("nobody")).unwrap();
        std::fs::copy(path.join("ca-cert.pem"), path.join("nobody/ca-cert.pem")).unwrap();
        std::fs::write(path.join("keys"), format!("bob:00ff\n{USER}:{KEY}\n")).unwrap();
        authority
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `ca-cert.pem`, `server-cert.pem`, `server-key.pem`.
    pub fn server(&self) -> PathBuf {
        self.path("server")
    }

    /// A file of keys.
    pub fn keys(&self) -> PathBuf {
        self.path("keys")
    }

    /// Has the client's certificate count no more, for whoever looks into this folder.
    pub fn revoke_client(&self, folder: &Path) {
        std::fs::write(self.path("index"), "").unwrap();
        std::fs::write(self.path("number"), "01\n").unwrap();
        let configuration =
            "[ca]\ndefault_ca=x\n[x]\ndatabase=index\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=2\n";
        std::fs::write(self.path("configuration"), configuration).unwrap();
        let signer = "-config configuration -cert ca-cert.pem -keyfile ca-key.pem";
        self.openssl(&format!("ca {signer} -revoke client/client-cert.pem"));
        self.openssl(&format!("ca {signer} -gencrl -out {}", folder.join("ca-crl.pem").display()));
    }

    fn openssl(&self, line: &str) {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(&self.folder).output();
        let output =
            output.unwrap_or_else(|error| panic!("openssl cannot be started ({error}): run scripts/setup test"));
        assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
