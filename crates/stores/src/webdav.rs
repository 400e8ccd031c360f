//! Folders of WebDAV servers.

use std::sync::Arc;

use opendal::Operator;
use opendal::services::WebdavConfig;

use crate::address::{Address, Web};
use crate::object_store::{Manner, Parts};
use crate::open::{Making, OpenError};
use crate::options::Settings;

/// The store's parts. User and password stand in the address, or in `WEBDAV_USERNAME` and `WEBDAV_PASSWORD`.
pub(crate) fn parts(web: &Web, making: &Making<'_>) -> Result<Parts, OpenError> {
    let environment = &making.options.environment;
    let mut settings = Settings::gather("webdav", &[], making.options)?;
    let connections = settings.connections(making.options, 8)?;
    settings.finish()?;
    let url = url::Url::parse(&web.url).map_err(|_| OpenError::Service("the address is none".to_owned()))?;
    let root = percent_encoding::percent_decode_str(url.path()).decode_utf8_lossy().into_owned();
    let mut origin = url;
    origin.set_path("/");
    let password = web.password.clone().or_else(|| environment.get("WEBDAV_PASSWORD").map(crate::secret::Secret::new));
    let mut config = WebdavConfig::default();
    config.endpoint = Some(origin.to_string());
    config.username = web.user.clone().or_else(|| environment.get("WEBDAV_USERNAME"));
    config.password = password.as_ref().map(|password| password.expose().to_owned());
    config.root = Some(root);
    let operator = Operator::from_config(config).map_err(|error| OpenError::Service(error.message().to_owned()))?;
    Ok(Parts {
        location: Address::WebDav(web.clone()).shown(),
        operator,
        classes: Vec::new(),
        folder: String::new(),
        manner: Manner::Files,
        connections,
        client: Some(making.client()?),
        login: None,
        answered: Arc::clone(&making.answered),
        bandwidth: making.bandwidth(),
        secrets: password.into_iter().collect(),
    })
}
