//! The options of gpbackup_s3_plugin (reference 10.1), so that its configuration file needs another program and a password only.
//!
//! They say where that plugin keeps its backups. The repository is in the folder `backstay` beside those, unless the option
//! `repository` names another place; what lies there from earlier is read by `older.rs`.

use std::collections::BTreeMap;
use std::fmt;

use backstay_stores::StoreOptions;
use backstay_stores::environment::Environment;
use serde::{Deserialize, Serialize};

/// A bucket as that plugin is told of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Options {
    /// Scheme, host and port.
    endpoint: String,
    region: Option<String>,
    bucket: String,
    folder: String,
    /// The key's id and its secret; none: what the environment and the provider's files say.
    key: Option<(String, String)>,
    proxy: Option<String>,
    /// How many requests at once, if the file says so.
    pub(crate) connections: Option<usize>,
}

/// Without the secret.
impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options").field("bucket", &self.bucket).field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl S3Options {
    /// Takes them out of all options; none where no bucket is named.
    ///
    /// # Errors
    /// One line that names the option. No value is repeated.
    pub(crate) fn take(given: &mut BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let Some(bucket) = given.remove("bucket") else { return Ok(None) };
        let mut take = |name: &str| given.remove(name);
        let folder = take("folder").ok_or("the option folder is required where bucket is given")?;
        if folder.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("the option folder is a path in the bucket, without a slash at its ends".to_owned());
        }
        if bucket.contains(['/', '?', '@']) || folder.contains('?') {
            return Err("the options bucket and folder are plain names".to_owned());
        }
        let scheme = match take("encryption").as_deref() {
            None | Some("on") => "https",
            Some("off") => "http",
            Some(_) => return Err("the option encryption is on or off".to_owned()),
        };
        match take("aws_signature_version").as_deref() {
            None | Some("4") => {}
            Some(_) => {
                return Err("the option aws_signature_version is 4: requests are signed in no other way".to_owned());
            }
        }
        // What that plugin signs with where no region is named.
        let region = take("region").filter(|region| region != "unused");
        let endpoint = match (take("endpoint"), &region) {
            (Some(endpoint), _) => {
                // The option encryption decides about the scheme, as there.
                let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, host)| host).trim_end_matches('/');
                if host.is_empty() || host.contains(['/', '@', '?']) {
                    return Err("the option endpoint is a host, with a port if need be".to_owned());
                }
                format!("{scheme}://{host}")
            }
            (None, Some(region)) if region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => {
                format!("{scheme}://s3.{region}.amazonaws.com")
            }
            (None, Some(_)) => return Err("the option region is no region's name".to_owned()),
            (None, None) => return Err("one of the options region and endpoint is required".to_owned()),
        };
        let key = match (take("aws_access_key_id"), take("aws_secret_access_key")) {
            (Some(id), Some(secret)) => Some((id, secret)),
            (None, None) => None,
            _ => return Err("the options aws_access_key_id and aws_secret_access_key go together".to_owned()),
        };
        let mut connections = None;
        for name in ["backup_max_concurrent_requests", "restore_max_concurrent_requests"] {
            let Some(text) = take(name) else { continue };
            let number = text.parse().ok().filter(|number| (1..=1000).contains(number));
            let number: usize = number.ok_or_else(|| format!("the option {name} is a number from 1 to 1000"))?;
            connections = connections.max(Some(number));
        }
        Ok(Some(Self { endpoint, region, bucket, folder, key, proxy: take("http_proxy"), connections }))
    }

    /// The address of the repository that belongs to it.
    pub(crate) fn repository(&self) -> String {
        format!("{}/backstay", self.address())
    }

    /// The address of the folder in which that plugin keeps backups.
    pub(crate) fn address(&self) -> String {
        format!("s3:{}/{}/{}", self.endpoint, self.bucket, self.folder)
    }

    /// Adds the credentials, the region and the proxy.
    pub(crate) fn dress(&self, mut options: StoreOptions) -> StoreOptions {
        if let Some(region) = &self.region {
            options.extended.insert(0, format!("s3.region={region}"));
        }
        if let Some((id, secret)) = &self.key {
            let variables = [("AWS_ACCESS_KEY_ID", id.as_str()), ("AWS_SECRET_ACCESS_KEY", secret.as_str())];
            options.environment = Environment::fixed(variables);
        }
        options.proxy = self.proxy.clone().map(backstay_stores::Secret::new);
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(lines: &[(&str, &str)]) -> Result<Option<S3Options>, String> {
        let mut given = lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        S3Options::take(&mut given)
    }

    #[test]
    fn a_bucket_is_where_that_plugin_would_find_it() {
        let of = |lines: &[(&str, &str)]| {
            let lines = [&[("bucket", "b"), ("folder", "a/gp")], lines].concat();
            take(&lines).unwrap().unwrap().repository()
        };
        assert_eq!(of(&[("region", "eu-west-1")]), "s3:https://s3.eu-west-1.amazonaws.com/b/a/gp/backstay");
        assert_eq!(of(&[("endpoint", "minio:9000"), ("encryption", "off")]), "s3:http://minio:9000/b/a/gp/backstay");
        assert_eq!(of(&[("endpoint", "http://minio:9000/"), ("region", "x")]), "s3:https://minio:9000/b/a/gp/backstay");
        assert!(take(&[("folder", "x")]).unwrap().is_none(), "nothing is taken without a bucket");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_repeated() {
        for (name, value, part) in [
            ("region", "", "endpoint"),
            ("region", "hush/", "region"),
            ("endpoint", "hush@host", "endpoint"),
            ("endpoint", "host/hush", "endpoint"),
            ("encryption", "hush", "encryption"),
            ("aws_signature_version", "2", "aws_signature_version"),
            ("aws_secret_access_key", "hush", "aws_access_key_id"),
            ("backup_max_concurrent_requests", "hush", "backup_max_concurrent_requests"),
            ("folder", "/hush", "folder"),
            ("folder", "a/../hush", "folder"),
        ] {
            let mut lines = vec![("bucket", "b"), ("folder", "f")];
            if name != "region" && name != "endpoint" {
                lines.push(("region", "x"));
            }
            if !value.is_empty() {
                lines.push((name, value));
            }
            let reason = take(&lines).unwrap_err();
            assert!(reason.contains(part) && !reason.contains("hush"), "{reason}");
        }
        let all = take(&[
            ("bucket", "b"),
            ("folder", "f"),
            ("region", "x"),
            ("aws_access_key_id", "me"),
            ("aws_secret_access_key", "hush-hush"),
            ("http_proxy", "http://me:hush-hush@proxy:3128"),
            ("restore_max_concurrent_requests", "9"),
            ("backup_max_concurrent_requests", "7"),
        ]);
        let all = all.unwrap().unwrap();
        assert_eq!(all.connections, Some(9));
        assert!(!format!("{all:?}").contains("hush"));
    }
}
