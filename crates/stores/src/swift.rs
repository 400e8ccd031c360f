//! Containers of OpenStack Swift.

use std::sync::Arc;

use opendal::Operator;
use opendal::services::SwiftConfig;

use crate::address::{Address, Bucket};
use crate::keystone::Login;
use crate::object_store::{Manner, Parts, folder};
use crate::open::{Making, OpenError};
use crate::options::Settings;
use crate::runtime;

/// The store's parts. Logs in, because only the login tells where the account's objects are.
pub(crate) fn parts(bucket: &Bucket, making: &Making<'_>) -> Result<Parts, OpenError> {
    let environment = &making.options.environment;
    let mut settings = Settings::gather("swift", &bucket.settings, making.options)?;
    let connections = settings.connections(making.options, 16)?;
    settings.finish()?;
    let client = making.client()?;
    let location = Address::Swift(bucket.clone()).shown();
    let secrets = Login::secrets(environment);
    let login = runtime::wait(Login::new(environment, client.clone()))
        .map_err(|error| error.to_string())
        .and_then(|login| login);
    let (login, storage) = login
        .map_err(|text| OpenError::Credentials(format!("{location}: {}", crate::secret::scrub(&text, &secrets))))?;
    let mut config = SwiftConfig::default();
    config.endpoint = Some(storage);
    config.container = Some(bucket.name.clone());
    let operator = Operator::from_config(config).map_err(|error| OpenError::Service(error.message().to_owned()))?;
    Ok(Parts {
        location,
        operator,
        classes: Vec::new(),
        folder: folder(&bucket.prefix),
        manner: Manner::Objects,
        connections,
        client: Some(client),
        login: Some(Arc::new(login)),
        answered: Arc::clone(&making.answered),
        bandwidth: making.bandwidth(),
        secrets,
    })
}
