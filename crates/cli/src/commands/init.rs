//! `backstay init`: a new, empty repository.

use clap::Args;

use backstay_core::{Id, ObjectKind};
use backstay_repository::error::Error;
use backstay_repository::repository::{InitOptions, Repository};

use crate::commands::copy::FromOptions;
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
    /// Cut files as the repository named by --from-repo does, one that restic's chunker cuts
    #[arg(long, conflicts_with = "restic_chunker")]
    pub copy_chunker_params: bool,
    /// The other repository.
    #[command(flatten)]
    pub from: FromOptions,
}

impl InitArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When there is a repository already, or the folder cannot be written.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        session.needs_lock("init")?;
        let FromOptions { from_repo, from_repository_file, .. } = &self.from;
        if !self.copy_chunker_params && (from_repo.is_some() || from_repository_file.is_some()) {
            return Err(Failure::fatal("--from-repo is of use with --copy-chunker-params only"));
        }
        let store = session.store()?;
        let location = store.location();
        if store.size(ObjectKind::Config, &Id::default()).map_err(Error::from)?.is_some() {
            return Err(Failure::fatal(format!("there is a repository at {location} already")));
        }
        let polynomial = if self.copy_chunker_params { Some(self.polynomial(session)?) } else { None };
        let password = password::password(&session.global, true)?;
        let repository = Repository::init(
            store,
            password.bytes(),
            InitOptions { restic_chunker: self.restic_chunker, polynomial, ..InitOptions::default() },
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

    fn polynomial(&self, session: &Session) -> Result<u64, Failure> {
        self.from.open(session)?.config().rabin_polynomial().ok_or_else(|| {
            Failure::fatal(
                "that repository cuts files with FastCDC by a table made of its own key, which another repository cannot \
                 share: make both with --restic-chunker, or copy without shared contents",
            )
        })
    }
}
