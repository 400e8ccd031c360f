//! The running job as the command line sees it: its number, where its messages go, who runs it.

use std::sync::Arc;

use backstay_core::MessageLevel;
use backstay_engine::backup::highest_job_id;
use backstay_engine::job::{JobControl, next_job_id, state_directory};
use backstay_repository::repository::Repository;

use crate::failure::{Failure, one_line};
use crate::output::Output;
use crate::session::Session;
use crate::signals;

/// A job with the next number, whose messages are printed and that a signal stops.
///
/// # Errors
/// When the snapshots, which carry the numbers of earlier jobs, cannot be listed.
pub fn control(session: &Session, repository: &Repository) -> Result<JobControl, Failure> {
    let known = highest_job_id(&repository.readable_snapshots()?.snapshots);
    let id = next_job_id(&state_directory(), known).unwrap_or_else(|error| {
        let folder = state_directory();
        session.output.verbose(1, &format!("cannot keep job numbers in {}: {error}", folder.display()));
        known.saturating_add(1)
    });
    Ok(numbered(session, id))
}

/// A job that leaves nothing behind and so needs no number.
pub fn without_number(session: &Session) -> JobControl {
    numbered(session, 0)
}

fn numbered(session: &Session, id: u32) -> JobControl {
    let output = Arc::clone(&session.output);
    let handler = Box::new(move |level: MessageLevel, source: &str, text: &str| message(&output, level, source, text));
    JobControl::new(id, handler, Box::new(signals::interrupted))
}

/// A line of the job's log: errors and warnings always, information with `-v`, the rest with `-vv`.
fn message(output: &Output, level: MessageLevel, source: &str, text: &str) {
    match level {
        MessageLevel::Debug => output.verbose(2, &format!("{source}: {text}")),
        MessageLevel::Info => output.verbose(1, &format!("{source}: {text}")),
        MessageLevel::Warning => output.warning(&format!("{source}: {text}")),
        MessageLevel::Error | MessageLevel::Fatal => {
            let mut lines = text.lines();
            let first = lines.next().unwrap_or_default();
            let rest: Vec<&str> = lines.collect();
            let traceback = (!rest.is_empty()).then(|| rest.join("\n"));
            output.item_error("job", source, &format!("{source}: {}", one_line(first)), traceback.as_deref());
        }
    }
}
