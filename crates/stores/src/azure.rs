//! Azure Blob Storage.

use std::sync::Arc;

use opendal::Operator;
use opendal::services::AzblobConfig;

use crate::address::{Address, Bucket, endpoint_of};
use crate::object_store::{Manner, Parts, folder};
use crate::open::{Making, OpenError};
use crate::options::Settings;
use crate::secret::Secret;

/// The store's parts. Credentials: `AZURE_ACCOUNT_NAME` with `AZURE_ACCOUNT_KEY` or `AZURE_ACCOUNT_SAS`.
pub(crate) fn parts(bucket: &Bucket, making: &Making<'_>) -> Result<Parts, OpenError> {
    let environment = &making.options.environment;
    let mut settings = Settings::gather("azure", &bucket.settings, making.options)?;
    let connections = settings.connections(making.options, 16)?;
    let endpoint = settings.text("endpoint");
    settings.finish()?;

    let account = environment
        .first(&["AZURE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_NAME"])
        .ok_or_else(|| OpenError::Credentials("which storage account? Name it in AZURE_ACCOUNT_NAME".to_owned()))?;
    let key = environment.first(&["AZURE_ACCOUNT_KEY", "AZURE_STORAGE_ACCOUNT_KEY"]);
    let signature = environment.first(&["AZURE_ACCOUNT_SAS", "AZURE_STORAGE_SAS_TOKEN"]);
    let suffix = environment.get("AZURE_ENDPOINT_SUFFIX").unwrap_or_else(|| "core.windows.net".to_owned());
    let endpoint = match endpoint {
        Some(endpoint) => endpoint_of(&endpoint)?,
        None => endpoint_of(&format!("https://{account}.blob.{suffix}"))?,
    };
    let mut config = AzblobConfig::default();
    config.container.clone_from(&bucket.name);
    config.endpoint = Some(endpoint);
    config.account_name = Some(account);
    config.account_key.clone_from(&key);
    config.sas_token = signature.as_ref().map(|text| text.trim_start_matches('?').to_owned());
    let operator = Operator::from_config(config).map_err(|error| OpenError::Service(error.message().to_owned()))?;
    Ok(Parts {
        location: Address::Azure(bucket.clone()).shown(),
        operator,
        classes: Vec::new(),
        folder: folder(&bucket.prefix),
        manner: Manner::Objects,
        connections,
        client: Some(making.client()?),
        login: None,
        answered: Arc::clone(&making.answered),
        bandwidth: making.bandwidth(),
        secrets: [key, signature].into_iter().flatten().map(Secret::new).collect(),
    })
}
