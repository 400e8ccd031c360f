//! From an address to a store, dressed in what the options ask for. This is the one way in.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use backstay_core::Store;

use crate::address::{Address, AddressError};
use crate::append_only::AppendOnlyStore;
use crate::limit::{Bandwidth, LimitedStore};
use crate::local::LocalStore;
use crate::options::{Settings, StoreOptions};
use crate::rest::{RestOptions, RestStore};
use crate::retry::{RetryStore, Retrying};
#[cfg(feature = "opendal")]
use crate::secret::Secret;

/// Why there is no store. No text repeats an address or a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// An option is wrong.
    #[error("{0}")]
    Option(String),
    /// Credentials are missing or half there.
    #[error("{0}")]
    Credentials(String),
    /// The library for this kind of store does not like the settings.
    #[error("this store cannot be used: {0}")]
    Service(String),
    /// This program was built without it.
    #[error("this program was built without {0} stores")]
    NotBuilt(&'static str),
}

/// Opens the store at an address: ours, or one of restic's spellings (`docs/stores.md` lists them). Nothing is looked at
/// yet, except who we are where the provider must be asked.
///
/// # Errors
/// [`OpenError`], one line that says what to do.
pub fn open(address: &str, options: &StoreOptions) -> Result<Arc<dyn Store>, OpenError> {
    open_at(&Address::parse(address)?, options)
}

/// The same for an address that was taken apart already.
///
/// # Errors
/// As [`open`].
pub fn open_at(address: &Address, options: &StoreOptions) -> Result<Arc<dyn Store>, OpenError> {
    let making = Making {
        options,
        bandwidth: Arc::new(Bandwidth::new(options.limit_upload, options.limit_download)),
        answered: Arc::default(),
    };
    let store = making.store(address)?;
    let mut store = RetryStore::new(store, options.retry_time, options.notice.clone()).with_answered(making.answered);
    if let Some(cancelled) = &options.cancelled {
        store = store.with_cancelled(Arc::clone(cancelled));
    }
    let store: Arc<dyn Store> = Arc::new(store);
    if options.append_only { Ok(Arc::new(AppendOnlyStore::new(store))) } else { Ok(store) }
}

/// Objects that another program laid out below an `s3:` address.
///
/// # Errors
/// As [`open`]; the address is of another kind.
#[cfg(feature = "s3")]
pub fn open_foreign(address: &str, options: &StoreOptions) -> Result<crate::ForeignObjects, OpenError> {
    let making = Making {
        options,
        bandwidth: Arc::new(Bandwidth::new(options.limit_upload, options.limit_download)),
        answered: Arc::default(),
    };
    match Address::parse(address)? {
        Address::S3(bucket) => {
            let retrying = Retrying::new(options.retry_time, options.notice.clone());
            Ok(crate::ForeignObjects::new(crate::s3::parts(&bucket, &making)?, retrying))
        }
        _ => Err(OpenError::Option("objects of other programs are read from s3: addresses only".to_owned())),
    }
}

/// What those who make a store are given.
pub(crate) struct Making<'a> {
    pub(crate) options: &'a StoreOptions,
    bandwidth: Arc<Bandwidth>,
    /// Raised at the store's first answer.
    pub(crate) answered: Arc<AtomicBool>,
}

impl Making<'_> {
    /// The account of bytes of the store that is being made.
    pub(crate) fn bandwidth(&self) -> Arc<Bandwidth> {
        Arc::clone(&self.bandwidth)
    }

    /// A client for HTTP.
    #[cfg(feature = "opendal")]
    pub(crate) fn client(&self) -> Result<reqwest::Client, OpenError> {
        let StoreOptions { certificates, insecure_tls, proxy, .. } = self.options;
        let proxy = proxy.as_ref().map(Secret::expose);
        crate::transport::client(certificates.as_deref(), *insecure_tls, proxy).map_err(OpenError::Option)
    }

    /// A store that does not pace its bytes itself.
    fn limited(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        if self.bandwidth.is_limited() { Arc::new(LimitedStore::new(store, self.bandwidth())) } else { store }
    }

    fn store(&self, address: &Address) -> Result<Arc<dyn Store>, OpenError> {
        match address {
            Address::Local(path) => {
                let mut settings = Settings::gather("local", &[], self.options)?;
                let connections = settings.connections(self.options, 4)?;
                settings.finish()?;
                let store: Arc<dyn Store> = Arc::new(LocalStore::new(path).with_connections(connections));
                Ok(self.limited(store))
            }
            #[cfg(feature = "s3")]
            Address::S3(bucket) => object(crate::s3::parts(bucket, self)?),
            #[cfg(not(feature = "s3"))]
            Address::S3(_) => Err(OpenError::NotBuilt("S3")),
            #[cfg(feature = "gcs")]
            Address::Gcs(bucket) => object(crate::gcs::parts(bucket, self)?),
            #[cfg(not(feature = "gcs"))]
            Address::Gcs(_) => Err(OpenError::NotBuilt("Google Cloud Storage")),
            #[cfg(feature = "azure")]
            Address::Azure(bucket) => object(crate::azure::parts(bucket, self)?),
            #[cfg(not(feature = "azure"))]
            Address::Azure(_) => Err(OpenError::NotBuilt("Azure")),
            #[cfg(feature = "swift")]
            Address::Swift(bucket) => object(crate::swift::parts(bucket, self)?),
            #[cfg(not(feature = "swift"))]
            Address::Swift(_) => Err(OpenError::NotBuilt("Swift")),
            #[cfg(feature = "sftp")]
            Address::Sftp(sftp) => Ok(Arc::new(crate::sftp::SftpStore::new(sftp, self)?)),
            #[cfg(not(feature = "sftp"))]
            Address::Sftp(_) => Err(OpenError::NotBuilt("SFTP")),
            #[cfg(feature = "webdav")]
            Address::WebDav(web) => object(crate::webdav::parts(web, self)?),
            #[cfg(not(feature = "webdav"))]
            Address::WebDav(_) => Err(OpenError::NotBuilt("WebDAV")),
            Address::Gpbackup(path) => match &self.options.gpbackup {
                Some(open) => open(path, self.options).map(|store| self.limited(store)),
                None => Err(OpenError::NotBuilt("gpbackup")),
            },
            Address::Rest(text) => {
                let mut settings = Settings::gather("rest", &[], self.options)?;
                let usual = RestOptions::from_environment(|name| self.options.environment.get(name));
                let connections = settings.connections(self.options, usual.connections)?;
                settings.finish()?;
                let options = RestOptions {
                    certificates: self.options.certificates.clone().or(usual.certificates.clone()),
                    client_certificate: self.options.client_certificate.clone().or(usual.client_certificate.clone()),
                    insecure: self.options.insecure_tls,
                    connections,
                    ..usual
                };
                let store =
                    RestStore::new(text.expose(), options).map_err(|error| OpenError::Option(error.to_string()))?;
                Ok(self.limited(Arc::new(store)))
            }
        }
    }
}

#[cfg(feature = "opendal")]
#[allow(clippy::unnecessary_wraps)] // As its neighbours in the match.
fn object(parts: crate::object_store::Parts) -> Result<Arc<dyn Store>, OpenError> {
    Ok(Arc::new(crate::object_store::ObjectStore::new(parts)))
}

#[cfg(test)]
mod tests;
