//! The REST store over TLS: whom it trusts.

#![allow(clippy::unwrap_used)]

use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use backstay_core::{Id, ObjectKind, Retry, Store};
use backstay_stores::testing::http::{Connection, Wrap};
use backstay_stores::testing::rest_server::{RestServer, RestServerOptions};
use backstay_stores::{LocalStore, RestOptions, RestStore};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A server with a certificate that it signed itself, in `certificate.pem` in its folder.
fn serve() -> (RestServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("openssl")
        .current_dir(folder.path())
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=backstay".split(' '))
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificate = CertificateDer::from_pem_file(folder.path().join("certificate.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.path().join("key.pem")).unwrap();
    let config = Arc::new(
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap(),
    );
    let wrap: Wrap = Arc::new(move |socket: TcpStream| {
        let connection = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(connection, socket)) as Box<dyn Connection>)
    });
    let local = Arc::new(LocalStore::new(folder.path().join("repo")));
    (RestServer::start_wrapped(local, RestServerOptions::default(), Some(wrap)), folder)
}

fn store(server: &RestServer, certificates: Option<PathBuf>, insecure: bool) -> RestStore {
    RestStore::new(&server.url(), RestOptions { certificates, insecure, ..RestOptions::default() }).unwrap()
}

#[test]
fn a_server_whose_certificate_is_in_the_file_is_trusted() {
    let (server, folder) = serve();
    let store = store(&server, Some(folder.path().join("certificate.pem")), false);
    assert!(store.location().starts_with("rest:https://127.0.0.1:"));
    store.put(ObjectKind::Pack, &Id::of(b"x"), b"x").unwrap();
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), [(Id::of(b"x"), 1)]);
}

#[test]
fn a_server_that_nobody_vouches_for_is_refused_for_good_unless_any_will_do() {
    let (server, _folder) = serve();
    let error = store(&server, None, false).list(ObjectKind::Pack).unwrap_err();
    assert_eq!(error.retry, Retry::Never);
    assert!(error.text.contains("certificate") && !error.text.contains('\n'), "{error}");
    assert_eq!(store(&server, None, true).list(ObjectKind::Pack).unwrap(), []);
}
