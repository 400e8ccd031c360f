//! Amazon S3 and whatever speaks like it.

use std::sync::Arc;
use std::time::Duration;

use opendal::Operator;
use opendal::services::S3Config;

use crate::address::{Address, Bucket, endpoint_of};
use crate::object_store::{Manner, Parts, folder};
use crate::open::{Making, OpenError};
use crate::options::Settings;
use crate::runtime;
use crate::secret::Secret;

const AMAZON: &str = "https://s3.amazonaws.com";
/// What stores take that have no regions, and Amazon's first one.
const FIRST_REGION: &str = "us-east-1";

/// The store's parts. The network is asked for one thing only: the region of a bucket at Amazon that nobody named.
pub(crate) fn parts(bucket: &Bucket, making: &Making<'_>) -> Result<Parts, OpenError> {
    let environment = &making.options.environment;
    let mut settings = Settings::gather("s3", &bucket.settings, making.options)?;
    let connections = settings.connections(making.options, 16)?;
    let classes = settings.storage_classes()?;
    let region = settings.text("region").or_else(|| environment.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
    let lookup = settings.text("bucket-lookup");
    let old_lists = settings.flag("list-objects-v1")?;
    let anonymous = settings.flag("unsafe-anonymous-auth")?;
    let profile = settings.text("profile").or_else(|| environment.get("AWS_PROFILE"));
    let metadata = settings.flag("instance-metadata")?;
    settings.finish()?;

    let named = environment.first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
    let endpoint = match (&bucket.endpoint, named) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Some(named)) => endpoint_of(&named)?,
        // A dot in the name: as likely a host as a bucket.
        (None, None) if bucket.name.contains('.') => {
            return Err(OpenError::Option(format!(
                "s3://{0}: is {0} a host or a bucket? Write s3:{0}/BUCKET/PREFIX, or s3:s3.amazonaws.com/{0} for a bucket \
                 of that name",
                bucket.name
            )));
        }
        (None, None) => AMAZON.to_owned(),
    };
    let amazon = endpoint.ends_with(".amazonaws.com");
    let by_name = match lookup.as_deref() {
        None | Some("auto") => amazon && !bucket.name.contains('.'),
        Some("dns") => true,
        Some("path") => false,
        Some(_) => return Err(OpenError::Option("s3.bucket-lookup is auto, dns or path".to_owned())),
    };

    let key = environment.get("AWS_ACCESS_KEY_ID");
    let secret = environment.get("AWS_SECRET_ACCESS_KEY");
    let token = environment.first(&["AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"]);
    if key.is_some() != secret.is_some() {
        return Err(OpenError::Credentials(
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together: only one of them is set".to_owned(),
        ));
    }
    let client = making.client()?;
    let region = match region {
        Some(region) => region,
        None if amazon => region_in(&endpoint)
            .or_else(|| region_of(&endpoint, &bucket.name, &client))
            .unwrap_or(FIRST_REGION.to_owned()),
        None => FIRST_REGION.to_owned(),
    };

    let mut config = S3Config::default();
    config.bucket.clone_from(&bucket.name);
    config.region = Some(region);
    config.endpoint = Some(endpoint.clone());
    config.enable_virtual_host_style = by_name;
    config.disable_list_objects_v2 = old_lists;
    config.disable_ec2_metadata = !metadata;
    config.skip_signature = anonymous;
    config.profile = profile;
    // The library's own search reads this process's environment and files.
    config.disable_config_load = !environment.is_process() || key.is_some();
    config.access_key_id = key;
    config.secret_access_key.clone_from(&secret);
    config.session_token.clone_from(&token);
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
        location: Address::S3(Bucket { endpoint: Some(endpoint), ..bucket.clone() }).shown(),
        operator,
        classes,
        folder: folder(&bucket.prefix),
        manner: Manner::Objects,
        connections,
        client: Some(client),
        login: None,
        answered: Arc::clone(&making.answered),
        bandwidth: making.bandwidth(),
        secrets: [secret, token].into_iter().flatten().map(Secret::new).collect(),
    })
}

/// The region in the name of one of Amazon's hosts.
fn region_in(endpoint: &str) -> Option<String> {
    let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"))?;
    let region = host.strip_prefix("s3.").or_else(|| host.strip_prefix("s3-"))?.strip_suffix(".amazonaws.com")?;
    let region = region.strip_prefix("dualstack.").unwrap_or(region);
    (!region.contains('.')).then(|| region.to_owned())
}

/// The region that Amazon says a bucket is in; it says so to anybody.
fn region_of(endpoint: &str, bucket: &str, client: &reqwest::Client) -> Option<String> {
    let request = client.head(format!("{endpoint}/{bucket}")).timeout(Duration::from_secs(10));
    let response = runtime::wait(request.send()).ok()?.ok()?;
    response.headers().get("x-amz-bucket-region")?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_of_a_host_of_amazons() {
        assert_eq!(region_in("https://s3.eu-central-1.amazonaws.com").as_deref(), Some("eu-central-1"));
        assert_eq!(region_in("https://s3-us-west-2.amazonaws.com").as_deref(), Some("us-west-2"));
        assert_eq!(region_in("https://s3.dualstack.eu-west-1.amazonaws.com").as_deref(), Some("eu-west-1"));
        assert_eq!(region_in("https://s3.amazonaws.com"), None);
        assert_eq!(region_in("https://minio.example"), None);
    }
}
