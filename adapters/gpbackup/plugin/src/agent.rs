//! The agent: one process for each host, user and configuration, which holds the repository open.
//!
//! gpbackup starts this program for every file and every stream. Opening a repository takes a fifth of a second each time;
//! handing the work to somebody who has it open takes none. A command finds its agent, or starts it, passes its standard
//! input or output (or the file) over as a descriptor, and waits. Where that does not work within two seconds, the command
//! does the work itself, to the same result.
//!
//! * [`folder`] says where sockets lie and which one belongs to a configuration; [`client`] is the command's side, [`server`]
//!   the agent's.
//! * The conversation: the command sends an [`Ask`]; the agent answers [`Answer::Accepted`] at once, then [`Answer::Ready`] when
//!   it has what it needs, and only now the command passes the descriptor (a [`Pass`]); the agent closes its copy before it
//!   answers [`Answer::Done`]. At any point it may answer [`Answer::Failed`] instead.
//! * The connection is the command's life line: once it is gone, nothing that it asked for becomes visible.
//! * Descriptors that were passed belong to somebody else too: they are never made non-blocking.

pub(crate) mod client;
pub(crate) mod folder;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::config::Config;
use crate::key::Key;
use crate::objects::Range;

use folder::Seat;
pub use folder::usual_folder;

/// What a command wants.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Store what comes from the descriptor; whether that is a local file, which comes to its end soon.
    Store { opening: Opening, key: Key, is_file: bool },
    /// Write an object, or ranges of it, to the descriptor.
    Fetch { opening: Opening, key: Key, ranges: Option<Vec<Range>> },
    /// Say how it goes.
    Status,
    /// End when nothing runs any more.
    Stop,
}

/// What it takes to open the repository: all of it comes with the request.
#[derive(Serialize, Deserialize)]
pub(crate) struct Opening {
    config: Config,
    password: Vec<u8>,
}

impl std::fmt::Debug for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opening")
    }
}

/// The descriptor belongs to this message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pass;

/// What the agent says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Accepted,
    Ready,
    Done,
    Failed(String),
    /// There is no such object, or no repository.
    Missing(String),
    /// Whoever read the output has gone.
    ReaderGone,
    Status(Status),
}

/// How an agent goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its process number.
    pub pid: u32,
    /// Seconds since it was started.
    pub seconds: u64,
    /// Commands that it has served.
    pub served: u64,
    /// Commands that it serves at this moment.
    pub running: u64,
    /// Snapshots that it has written.
    pub commits: u64,
}

impl From<Result<(), Failure>> for Answer {
    fn from(result: Result<(), Failure>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(Failure::ReaderGone) => Self::ReaderGone,
            Err(Failure::Told(text)) => Self::Failed(text),
            Err(Failure::Missing(text)) => Self::Missing(text),
        }
    }
}

/// How the agents of a folder go, by name.
///
/// # Errors
/// The folder cannot be read, or is not ours alone.
pub fn all(folder: &Path) -> Result<Vec<(String, Status)>, Failure> {
    ask_all(folder, &Ask::Status)
}

/// Asks all agents of a folder to end when nothing runs any more, and says which there were.
///
/// # Errors
/// As [`all`].
pub fn stop_all(folder: &Path) -> Result<Vec<(String, Status)>, Failure> {
    ask_all(folder, &Ask::Stop)
}

fn ask_all(folder: &Path, ask: &Ask) -> Result<Vec<(String, Status)>, Failure> {
    let mut found = Vec::new();
    for seat in Seat::all(folder)? {
        // One that was killed left its socket.
        if let Some(status) = client::ask(&seat, ask)? {
            found.push((seat.name().to_owned(), status));
        }
    }
    Ok(found)
}

/// Is the agent of a configuration until nobody has needed it for the configuration's time; false: another one runs.
///
/// # Errors
/// The password, the folder of the sockets, the socket.
pub fn run(config: &Config) -> Result<bool, Failure> {
    server::serve(&Seat::of(config)?.0, Duration::from_secs(config.agent_idle))
}

/// Is the agent that a command has started.
///
/// # Errors
/// The folder is not ours alone.
pub(crate) fn run_started(folder: PathBuf, name: String, idle: u64) -> Result<(), Failure> {
    // It fails for the leader of a group, which is nobody's child then.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").map_err(|error| Failure::new(format!("/: {error}")))?;
    server::serve(&Seat::named(folder, name)?, Duration::from_secs(idle)).map(drop)
}
