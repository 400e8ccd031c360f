//! Folders behind SSH, by SFTP. The system's own `ssh` makes the connection: its configuration, agent, known hosts and
//! jump hosts hold. It never asks anything: keys, no passwords.

use std::sync::Arc;

use opendal::Operator;
use opendal::services::SftpConfig;

use crate::address::{self, Address};
use crate::object_store::{Manner, Parts, folder};
use crate::open::{Making, OpenError};
use crate::options::Settings;

/// The store's parts.
pub(crate) fn parts(sftp: &address::Sftp, making: &Making<'_>) -> Result<Parts, OpenError> {
    let mut settings = Settings::gather("sftp", &[], making.options)?;
    let connections = settings.connections(making.options, 5)?;
    let key = settings.text("key");
    let known_hosts = settings.text("known-hosts").unwrap_or_else(|| "strict".to_owned());
    settings.finish()?;
    if !["strict", "add", "accept"].contains(&known_hosts.as_str()) {
        return Err(OpenError::Option(
            "sftp.known-hosts is strict (the host's key must be known), add (a new one is noted) or accept (any will do)"
                .to_owned(),
        ));
    }
    if let Some(key) = &key
        && !std::path::Path::new(key).is_file()
    {
        return Err(OpenError::Option(format!("sftp.key: there is no file {key}")));
    }
    let host = if sftp.host.contains(':') { format!("[{}]", sftp.host) } else { sftp.host.clone() };
    let port = sftp.port.map(|port| format!(":{port}")).unwrap_or_default();
    // A path that is not absolute begins where the server puts us: there is no root then, and the folder goes in front.
    let absolute = sftp.path.starts_with('/');
    let mut config = SftpConfig::default();
    config.endpoint = Some(format!("ssh://{host}{port}"));
    config.user.clone_from(&sftp.user);
    config.key = key;
    config.known_hosts_strategy = Some(known_hosts);
    config.root = absolute.then(|| sftp.path.clone());
    let operator = Operator::from_config(config).map_err(|error| OpenError::Service(error.message().to_owned()))?;
    Ok(Parts {
        location: Address::Sftp(sftp.clone()).shown(),
        operator,
        classes: Vec::new(),
        folder: if absolute { String::new() } else { folder(sftp.path.trim_end_matches('/')) },
        manner: Manner::Files,
        connections,
        client: None,
        login: None,
        answered: Arc::clone(&making.answered),
        bandwidth: making.bandwidth(),
        secrets: Vec::new(),
    })
}
