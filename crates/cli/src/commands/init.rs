//! `backstay init`: a new, empty repository.

use clap::Args;

use backstay_repository::repository::{InitOptions, Repository};

use crate::failure::Failure;
use crate::password;
use crate::session::Session;

/// Make a new repository
///
/// The folder is made if it is not there. Whoever loses the password loses the data: nothing else opens a repository.
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
        let folder = session.folder()?;
        let store = session.store()?;
        if let Ok(Some(_)) = store.size(backstay_core::ObjectKind::Config, &backstay_core::Id::default()) {
            return Err(Failure::fatal(format!("there is a repository at {} already", folder.display())));
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
                "repository": folder.display().to_string(),
            }));
        }
        session.output.note(&format!(
            "made the repository {} at {}\nKeep its password safe: without it the data cannot be read, by nobody.",
            &id[..id.len().min(10)],
            folder.display()
        ));
        Ok(())
    }
}
