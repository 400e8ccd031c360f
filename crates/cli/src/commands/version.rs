//! `backstay version`: which program this is.

use clap::Args;

use crate::failure::Failure;
use crate::session::Session;

/// Print the version
#[derive(Debug, Args)]
pub struct VersionArgs {}

impl VersionArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// Only when standard output fails.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let version = env!("CARGO_PKG_VERSION");
        if session.output.json {
            return session.output.object(&serde_json::json!({
                "message_type": "version",
                "version": version,
                "os": std::env::consts::OS,
                "arch": std::env::consts::ARCH,
            }));
        }
        session.output.line(&format!("backstay {version} ({} {})", std::env::consts::OS, std::env::consts::ARCH))
    }
}
