//! Google Cloud Storage.

use std::sync::Arc;

use opendal::Operator;
use opendal::services::GcsConfig;

use crate::address::{Address, Bucket};
use crate::object_store::{Manner, Parts, folder};
use crate::open::{Making, OpenError};
use crate::options::Settings;
use crate::secret::Secret;

/// The store's parts. Credentials: `GOOGLE_ACCESS_TOKEN`, `GOOGLE_APPLICATION_CREDENTIALS` (a file), the file that
/// Google's own tools write, or the machine itself.
pub(crate) fn parts(bucket: &Bucket, making: &Making<'_>) -> Result<Parts, OpenError> {
    let environment = &making.options.environment;
    let mut settings = Settings::gather("gs", &bucket.settings, making.options)?;
    let connections = settings.connections(making.options, 16)?;
    let classes = settings.storage_classes()?;
    let endpoint = settings.text("endpoint");
    let anonymous = settings.flag("unsafe-anonymous-auth")?;
    let metadata = settings.flag("instance-metadata")?;
    settings.finish()?;

    let token = environment.get("GOOGLE_ACCESS_TOKEN");
    let file = environment.get("GOOGLE_APPLICATION_CREDENTIALS");
    let mut config = GcsConfig::default();
    config.bucket.clone_from(&bucket.name);
    config.endpoint = endpoint.as_deref().map(crate::address::endpoint_of).transpose()?;
    config.skip_signature = anonymous;
    config.disable_vm_metadata = !metadata;
    config.disable_config_load = !environment.is_process();
    config.token.clone_from(&token);
    if let Some(file) = &file
        && !std::path::Path::new(file).is_file()
    {
        return Err(OpenError::Credentials(format!(
            "GOOGLE_APPLICATION_CREDENTIALS names {file}, and there is no such file"
        )));
    }
    config.credential_path = file;
    let make = |class: Option<String>| {
        let config = {
            let mut config = config.clone();
            config.default_storage_class = class;
            config
        };
        Operator::from_config(config).map_err(|error| OpenError::Service(error.message().to_owned()))
    };
    let operator = make(None)?;
    let classes =
        classes.into_iter().map(|(kind, class)| Ok((kind, make(Some(class))?))).collect::<Result<_, OpenError>>()?;
    Ok(Parts {
        location: Address::Gcs(bucket.clone()).shown(),
        operator,
        classes,
        folder: folder(&bucket.prefix),
        manner: Manner::Objects,
        connections,
        client: Some(making.client()?),
        login: None,
        answered: Arc::clone(&making.answered),
        bandwidth: making.bandwidth(),
        secrets: token.into_iter().map(Secret::new).collect(),
    })
}
