//! `backstay mount`: the snapshots as folders, without a restore.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backstay_mount::fuse::{self, MountError};
use backstay_mount::{Layout, MountOptions, View, ViewOptions};
use clap::Args;

use crate::args::SnapshotFilterOptions;
use crate::failure::{Failure, chain};
use crate::format;
use crate::session::Session;
use crate::signals;

/// How often a signal, and the end of the mount, are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Show the snapshots as folders, read only
///
/// Runs until the folder is unmounted or a signal comes; a second signal takes it away even from those who use it.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// An empty folder
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: PathBuf,
    /// Which snapshots are shown.
    #[command(flatten)]
    pub filter: SnapshotFilterOptions,
    /// Let other users look at it too; owners and modes hold for them
    #[arg(long)]
    pub allow_other: bool,
    /// With --allow-other: let them read everything
    #[arg(long, requires = "allow_other")]
    pub no_default_permissions: bool,
    /// Show root as the owner of everything
    #[arg(long)]
    pub owner_root: bool,
    /// Where snapshots lie, from %i (short id), %I (id), %u (user), %h (host), %t (tag) and %T (time) (repeatable)
    /// [default: ids/%i, snapshots/%T, hosts/%h/%T, tags/%t/%T]
    #[arg(long, value_name = "TEMPLATE")]
    pub path_template: Vec<String>,
    /// How %T writes "Mon Jan 2 15:04:05 MST 2006" [default: 2006-01-02T15:04:05Z07:00]
    #[arg(long, value_name = "SAMPLE")]
    pub time_template: Option<String>,
    /// Look for new snapshots when the list is older than this
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = format::parse_duration)]
    pub refresh: Duration,
    /// Show also what Backstay keeps for itself in /.backstay
    #[arg(long)]
    pub internal: bool,
}

impl MountArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// When the folder cannot be mounted on, the repository not opened, or the mount ends otherwise than by unmounting.
    pub fn run(self, session: &Session) -> Result<(), Failure> {
        let layout = Layout::new(&self.path_template, self.time_template.as_deref())
            .map_err(|error| Failure::fatal(error.to_string()))?;
        let mountpoint = fuse::check(&self.mountpoint)?;
        let repository = session.open_to_read()?;
        let options = ViewOptions {
            filter: self.filter.filter(),
            layout,
            internal: self.internal,
            owner_root: self.owner_root,
            refresh: self.refresh,
        };
        let output = Arc::clone(&session.output);
        let log = Box::new(move |path: &str, message: &str| {
            output.item_error("mount", &format::path(path.as_bytes()), message, None);
        });
        let readers = repository.store().calls_at_once().clamp(4, 16);
        let view = Arc::new(View::new(repository, options, log)?);
        // From here on a signal unmounts before the process ends.
        signals::be_patient();
        let forced = mountpoint.clone();
        signals::before_forced_end(move || drop(fuse::unmount(&forced, true)));
        if signals::interrupted() {
            return Err(Failure::Interrupted("interrupted".to_owned()));
        }
        let mount_options =
            MountOptions { allow_other: self.allow_other, default_permissions: !self.no_default_permissions, readers };
        let mut mounted = fuse::mount(view, &mountpoint, mount_options)?;
        let shown = format::path(mountpoint.as_os_str().as_encoded_bytes());
        if session.output.json {
            session.output.object(&serde_json::json!({"message_type": "mounted", "mountpoint": shown}))?;
            session.output.flush()?;
        } else {
            session.output.note(&format!("the snapshots are in {shown}; Ctrl-C, or unmounting it, ends this"));
        }
        let mut told = false;
        loop {
            if let Some(result) = mounted.wait(LOOK) {
                return result
                    .map_err(|error| Failure::fatal(format!("the mount on {shown} ended: {}", chain(&error))));
            }
            if !signals::interrupted() {
                continue;
            }
            match mounted.unmount() {
                Ok(()) => {}
                Err(MountError::Busy(_)) => {
                    if !told {
                        session.output.warning(&format!(
                            "{shown} is in use: it is unmounted when nobody has anything in it open; a second signal takes it away at once"
                        ));
                    }
                    told = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        Self::fatal(chain(&error))
    }
}
