//! `backstay init`: a new, empty repository.

use clap::Args;

use backstay_core::{Id, ObjectKind};
use backstay_repository::error::Error;
use backstay_repository::repository::{InitOptions, Repository};

use crate::failure::Failure;
use crate::password;
use crate::session::Session;

/// Make a new repository
///
/// A local folder is made if it is not there; a bucket must be. Whoever loses the password loses the data: nothing else opens a repository.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Cut files as restic does, so that restic and Backstay share contents in this repository
    #[arg(long)]
    pub restic_chunker: bool,
}

impl InitArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When there is a repository already, or the folder cannot be written.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        session.needs_lock("init")?;
        let store = session.store()?;
        let location = store.location();
        if store.size(ObjectKind::Config, &Id::default()).map_err(Error::from)?.is_some() {
            return Err(Failure::fatal(format!("there is a repository at {location} already")));
        }
        let password = password::password(&session.global, true)?;
        let repository = Repository::init(
            store,
            password.bytes(),
            InitOptions { restic_chunker: self.restic_chunker, ..InitOptions::default() },
        )?;
        let id = repository.config().id.to_string();
        if session.output.json {
            return session.output.object(&serde_json::json!({
                "message_type": "initialized",
                "id": id,
                "repository": location,
            }));
        }
        session.output.note(&format!(
            "made the repository {} at {location}\nKeep its password safe: without it the data cannot be read, by nobody.",
            &id[..id.len().min(10)],
        ));
        Ok(())
    }
}
