//! TLS around a connection (reference 10.8): credentials of a server or a client, and the encrypted channel. OpenSSL does it, because
//! rustls has no pre-shared keys, which NBD clients use.
//!
//! * [`ServerCredentials`] and [`ClientCredentials`] are a folder of certificates or a file of keys; `channel` encrypts, in both directions at once.
//! * [`names`] writes the names in a certificate, `keys` reads a file of keys.

pub(crate) mod channel;
pub(crate) mod keys;
pub mod names;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use backstay_core::Certificate;
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslFiletype, SslMethod, SslMode, SslOptions, SslRef, SslSessionCacheMode,
    SslVerifyMode, SslVersion,
};
use openssl::stack::Stack;
use openssl::x509::store::X509Lookup;
use openssl::x509::verify::{X509CheckFlags, X509VerifyFlags};
use openssl::x509::{X509, X509Name};

/// The certificate of whoever signs the others.
pub const CA_CERTIFICATE: &str = "ca-cert.pem";
/// Certificates that count no more; it need not be there.
pub const CA_REVOKED: &str = "ca-crl.pem";
/// The server's certificate, those between it and the signer's behind it.
pub const SERVER_CERTIFICATE: &str = "server-cert.pem";
/// The server's private key.
pub const SERVER_KEY: &str = "server-key.pem";

/// A client's certificate, those between it and the signer's behind it.
pub const CLIENT_CERTIFICATE: &str = "client-cert.pem";
/// A client's private key.
pub const CLIENT_KEY: &str = "client-key.pem";

/// Keys that both sides have: no certificates are looked at. TLS 1.3 has its own list.
const PSK_CIPHERS: &str =
    "kECDHEPSK+AESGCM:kECDHEPSK+CHACHA20:kECDHEPSK:kPSK+AESGCM:kPSK+CHACHA20:kPSK:!NULL:!aNULL:!3DES";

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The library refuses.
    #[error("TLS: {0}")]
    Library(#[from] ErrorStack),
}

impl CredentialsError {
    fn content(path: &Path, reason: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), reason: reason.into() }
    }
}

/// What a server proves itself with, and asks of its clients.
#[derive(Clone)]
pub struct ServerCredentials(SslContext);

impl std::fmt::Debug for ServerCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerCredentials")
    }
}

impl ServerCredentials {
    /// Certificates in a folder: [`CA_CERTIFICATE`], [`SERVER_CERTIFICATE`], [`SERVER_KEY`], and [`CA_REVOKED`] if it is there.
    /// With `verify_peer` a client must have a certificate that the same signer signed.
    ///
    /// # Errors
    /// A file is missing or is none; the key is not the certificate's.
    pub fn certificates(folder: &Path, verify_peer: bool) -> Result<Self, CredentialsError> {
        let mut context = context(SslMethod::tls_server())?;
        trust(&mut context, folder)?;
        own(&mut context, &folder.join(SERVER_CERTIFICATE), &folder.join(SERVER_KEY))?;
        if verify_peer {
            context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        Ok(Self(context.build()))
    }

    /// A file of lines `username:hexkey`, one for each client.
    ///
    /// # Errors
    /// It cannot be read, or a line is none of these.
    pub fn keys(path: &Path) -> Result<Self, CredentialsError> {
        let keys = keys::Keys::load(path)?;
        let mut context = context(SslMethod::tls_server())?;
        context.set_cipher_list(PSK_CIPHERS)?;
        context.set_psk_server_callback(move |_, identity, place| {
            let key = identity.and_then(|identity| keys.find(identity));
            // An empty one is an unknown one.
            Ok(key.map_or(0, |key| put(key, place)))
        });
        Ok(Self(context.build()))
    }

    /// A new connection's state.
    pub(crate) fn session(&self) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.0)?;
        ssl.set_accept_state();
        Ok(ssl)
    }
}

/// What a client proves itself with, and how it knows its server.
#[derive(Clone)]
pub struct ClientCredentials {
    context: SslContext,
    /// Whether the server's name is in a certificate.
    names: bool,
}

impl std::fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCredentials")
    }
}

impl ClientCredentials {
    /// Certificates in a folder: [`CA_CERTIFICATE`], which the server's must be signed by; [`CLIENT_CERTIFICATE`] and [`CLIENT_KEY`],
    /// if they are there; [`CA_REVOKED`] if it is there. Without a folder the system's authorities are trusted.
    ///
    /// # Errors
    /// A file is missing or is none; the key is not the certificate's.
    pub fn certificates(folder: Option<&Path>) -> Result<Self, CredentialsError> {
        let mut context = context(SslMethod::tls_client())?;
        match folder {
            None => context.set_default_verify_paths()?,
            Some(folder) => {
                trust(&mut context, folder)?;
                let (certificate, key) = (folder.join(CLIENT_CERTIFICATE), folder.join(CLIENT_KEY));
                if certificate.exists() || key.exists() {
                    own(&mut context, &certificate, &key)?;
                }
            }
        }
        context.set_verify(SslVerifyMode::PEER);
        Ok(Self { context: context.build(), names: true })
    }

    /// The key of a user in a file of lines `username:hexkey`. Without a user the file must have one only.
    ///
    /// # Errors
    /// It cannot be read, or a line is none of these, or it has no such user.
    pub fn keys(path: &Path, user: Option<&str>) -> Result<Self, CredentialsError> {
        let keys = keys::Keys::load(path)?;
        let (name, key) = match user {
            Some(user) => keys
                .find(user.as_bytes())
                .map(|key| (user.as_bytes().to_vec(), key.to_vec()))
                .ok_or_else(|| CredentialsError::content(path, format!("there is no key of the user {user} in it")))?,
            None => keys
                .only()
                .ok_or_else(|| CredentialsError::content(path, "it has several users: name one in the URI (USER@)"))?,
        };
        if name.contains(&0) {
            return Err(CredentialsError::content(path, "a user's name has a NUL in it"));
        }
        let mut context = context(SslMethod::tls_client())?;
        context.set_cipher_list(PSK_CIPHERS)?;
        // A server that shows a certificate instead does not have the key.
        context.set_verify(SslVerifyMode::PEER);
        context.set_psk_client_callback(move |_, _, identity, place| {
            // With the NUL that ends it.
            let fits = put(&[&name[..], &[0]].concat(), identity) > 0;
            Ok(if fits { put(&key, place) } else { 0 })
        });
        Ok(Self { context: context.build(), names: false })
    }

    /// A new connection's state, with a server that must have this name or address, if one is given.
    pub(crate) fn session(&self, host: Option<&str>) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.context)?;
        ssl.set_connect_state();
        if let Some(host) = host.filter(|_| self.names) {
            match host.parse::<IpAddr>() {
                Ok(address) => ssl.param_mut().set_ip(address)?,
                Err(_) => {
                    ssl.set_hostname(host)?;
                    ssl.param_mut().set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
                    ssl.param_mut().set_host(host)?;
                }
            }
        }
        Ok(ssl)
    }
}

/// Copies a key to where the library wants it; its length, or 0 if there is no room.
fn put(key: &[u8], place: &mut [u8]) -> usize {
    match place.get_mut(..key.len()) {
        Some(place) => {
            place.copy_from_slice(key);
            key.len()
        }
        None => 0,
    }
}

/// What both sides do alike.
fn context(method: SslMethod) -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContext::builder(method)?;
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    // No session is resumed: each proves itself anew.
    context.set_options(SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION | SslOptions::NO_COMPRESSION);
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_num_tickets(0)?;
    context.set_mode(SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER | SslMode::RELEASE_BUFFERS);
    Ok(context)
}

/// Trusts whomever the folder's signer signed.
fn trust(context: &mut SslContextBuilder, folder: &Path) -> Result<(), CredentialsError> {
    let path = folder.join(CA_CERTIFICATE);
    let mut names = Stack::new()?;
    for certificate in certificates(&path)? {
        names.push(X509Name::from_der(&certificate.subject_name().to_der()?)?)?;
        context.cert_store_mut().add_cert(certificate)?;
    }
    context.set_client_ca_list(names);
    let revoked = folder.join(CA_REVOKED);
    if revoked.try_exists().map_err(|error| CredentialsError::File { path: revoked.clone(), error })? {
        let lookup = context.cert_store_mut().add_lookup(X509Lookup::file())?;
        lookup
            .load_crl_file(&revoked, SslFiletype::PEM)
            .map_err(|error| CredentialsError::content(&revoked, reasons(&error)))?;
        context.cert_store_mut().set_flags(X509VerifyFlags::CRL_CHECK)?;
    }
    Ok(())
}

/// Has a certificate, those behind it, and its key.
fn own(context: &mut SslContextBuilder, certificate: &Path, key: &Path) -> Result<(), CredentialsError> {
    let mut chain = certificates(certificate)?.into_iter();
    if let Some(first) = chain.next() {
        context.set_certificate(&first).map_err(|error| CredentialsError::content(certificate, reasons(&error)))?;
    }
    for other in chain {
        context.add_extra_chain_cert(other)?;
    }
    // A key that asks for a password is refused instead of asking at the terminal.
    let private = PKey::private_key_from_pem_callback(&read(key)?, |_| Ok(0)).map_err(|_| {
        CredentialsError::content(key, "there is no private key in it that can be read without a password")
    })?;
    // It compares them.
    context
        .set_private_key(&private)
        .map_err(|_| CredentialsError::content(key, format!("it is not the key of {}", certificate.display())))
}

fn certificates(path: &Path) -> Result<Vec<X509>, CredentialsError> {
    let found = X509::stack_from_pem(&read(path)?).unwrap_or_default();
    if found.is_empty() { Err(CredentialsError::content(path, "there is no certificate in it")) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    std::fs::read(path).map_err(|error| CredentialsError::File { path: path.to_owned(), error })
}

/// What the library says, in its shortest words.
fn reasons(errors: &ErrorStack) -> String {
    let texts: Vec<&str> = errors.errors().iter().filter_map(openssl::error::Error::reason).collect();
    if texts.is_empty() { errors.to_string() } else { texts.join(", ") }
}

/// The names in the other side's certificate, if it was asked for one.
fn certificate(ssl: &SslRef) -> Option<Certificate> {
    let certificate = ssl.peer_certificate()?;
    let name = |name: Result<Vec<u8>, ErrorStack>| name.ok().and_then(|der| names::rfc4514(&der)).unwrap_or_default();
    Some(Certificate {
        subject: name(certificate.subject_name().to_der()),
        issuer: name(certificate.issuer_name().to_der()),
    })
}
