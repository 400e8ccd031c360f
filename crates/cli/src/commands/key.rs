//! `backstay key`: who may open the repository.

use std::path::PathBuf;

use backstay_repository::maintenance::keys::{self, AddedKey, NewKey};
use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::format;
use crate::password;
use crate::session::Session;

/// List, add and remove the keys of the repository, change its password
///
/// Each key opens the repository with a password of its own.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub what: KeyCommand,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the keys; the one that the repository was opened with has a star
    List,
    /// Add a key with a new password
    Add(NewKeyOptions),
    /// Remove a key; not the one that the repository was opened with
    Remove {
        /// The key's id, or the beginning of it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Put a key with a new password in the place of the one that the repository was opened with
    Passwd(NewKeyOptions),
}

/// A new key.
#[derive(Debug, Args)]
pub struct NewKeyOptions {
    /// A file that holds the new password [default: asked for on the terminal]
    #[arg(long, value_name = "FILE")]
    pub new_password_file: Option<PathBuf>,
    /// A command that prints the new password
    #[arg(long, value_name = "COMMAND", conflicts_with = "new_password_file")]
    pub new_password_command: Option<String>,
    /// The host's name in the key file [default: this host]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// The user's name in the key file [default: who runs this]
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
}

impl KeyArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When the repository cannot be opened or locked, a key is not there, or is the one in use.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        match self.what {
            KeyCommand::List => list(session),
            KeyCommand::Add(options) => {
                session.needs_lock("key add")?;
                let repository = session.open_to_read()?;
                let password = options.password()?;
                let added = keys::add_key(&repository, password.bytes(), &options.origin())?;
                told(session, "added", "added key", &added)
            }
            KeyCommand::Passwd(options) => {
                session.needs_lock("key passwd")?;
                let repository = session.open_alone()?;
                let password = options.password()?;
                let added = keys::change_password(&repository, password.bytes(), &options.origin())?;
                told(session, "changed", "changed the password: the new key is", &added)
            }
            KeyCommand::Remove { id } => {
                session.needs_lock("key remove")?;
                let repository = session.open_alone()?;
                let id = keys::remove_key(&repository, &id)?;
                if session.output.json {
                    return session
                        .output
                        .object(&serde_json::json!({"message_type": "removed", "key_id": id.to_hex()}));
                }
                session.output.note(&format!("removed key {}", id.to_hex()));
                Ok(())
            }
        }
    }
}

impl NewKeyOptions {
    fn password(&self) -> Result<password::Password, Failure> {
        password::new_password(self.new_password_file.as_deref(), self.new_password_command.as_deref())
    }

    fn origin(&self) -> NewKey {
        NewKey { username: self.user.clone(), hostname: self.host.clone(), ..NewKey::default() }
    }
}

fn told(session: &Session, message_type: &str, words: &str, added: &AddedKey) -> Result<(), Failure> {
    let id = added.id.to_hex();
    if session.output.json {
        session.output.object(&serde_json::json!({"message_type": message_type, "key_id": id}))?;
    } else {
        session.output.note(&format!("{words} {id}"));
    }
    if added.needs_hint {
        session.output.warning(&format!(
            "there are more than 20 keys, and no program tries more with a password: name this one with --key-hint {}",
            added.id.short()
        ));
    }
    Ok(())
}

fn list(session: &Session) -> Result<(), Failure> {
    let repository = session.open_to_read()?;
    let found = keys::list_keys(&repository)?;
    let created = |key: &keys::Key| key.created.map_or_else(String::new, |time| format::local_time(time.seconds, 0));
    if session.output.json {
        // An array, as scripts know it from restic.
        let list: Vec<serde_json::Value> = found
            .keys
            .iter()
            .map(|key| {
                serde_json::json!({
                    "current": key.current,
                    "id": key.id.to_hex(),
                    "userName": key.username,
                    "hostName": key.hostname,
                    "created": created(key),
                })
            })
            .collect();
        session.output.object(&list)?;
    } else {
        let rows: Vec<Vec<String>> = found
            .keys
            .iter()
            .map(|key| {
                vec![
                    format!("{}{}", if key.current { "*" } else { " " }, key.id.short()),
                    format::path(key.username.as_bytes()),
                    format::path(key.hostname.as_bytes()),
                    created(key),
                ]
            })
            .collect();
        session.output.line(format::table(&[" ID", "User", "Host", "Created"], &rows).trim_end())?;
    }
    for error in &found.damaged {
        session.output.item_error("keys", "", &error.to_string(), None);
    }
    if found.damaged.is_empty() { Ok(()) } else { Err(Failure::Reported) }
}
