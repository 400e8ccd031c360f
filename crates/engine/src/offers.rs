//! Files that a walk offers to sources on its way: the walk's threads wait for each answer, a source asks for the next one.
//! May use: core, repository.

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use backstay_core::{EntryError, Job, Offer, SourceInfo, Stop};

use crate::ingest::cancelled;
use crate::tree::{Taken, Taker};

/// How often a source that waits for the walk asks whether the job was cancelled.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum Word {
    /// A file, and where its answer goes.
    File(Box<Offer>, Sender<Taken>),
    /// The walk is over, and it is this source's turn.
    Proceed,
}

/// The walk's side: knows which source gets which files.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    sources: HashMap<u32, Sender<Word>>,
}

impl Desk {
    /// Adds a source; none if it wants no files.
    pub(crate) fn open(&mut self, info: &SourceInfo) -> Option<(Offers, Turn)> {
        if info.offers.is_empty() {
            return None;
        }
        let (words, queue) = mpsc::channel();
        self.sources.extend(info.offers.iter().map(|number| (*number, words.clone())));
        Some((Offers { queue, open: None }, Turn(words)))
    }
}

impl Taker for Desk {
    fn offer(&self, offer: Offer) -> Taken {
        let Some(source) = self.sources.get(&offer.number) else { return Taken::Passed };
        let (reply, answer) = mpsc::channel();
        let name = String::from_utf8_lossy(&offer.entry.name).into_owned();
        let asked = source.send(Word::File(Box::new(offer), reply)).ok();
        asked.and_then(|()| answer.recv().ok()).unwrap_or_else(|| {
            Taken::Failed(EntryError::new(format!(
                "{name}: the source that it was offered to ended before it answered"
            )))
        })
    }
}

/// Lets a source go on with what it has beside the files of the walk.
#[derive(Debug)]
pub(crate) struct Turn(Sender<Word>);

impl Turn {
    /// The walk is over. A source that has ended does not mind.
    pub(crate) fn come(self) {
        let _ = self.0.send(Word::Proceed);
    }
}

/// The source's side.
#[derive(Debug)]
pub(crate) struct Offers {
    queue: Receiver<Word>,
    open: Option<Sender<Taken>>,
}

impl Offers {
    /// Waits for the next file; none when it is the source's turn to go on.
    pub(crate) fn next(&mut self, job: &dyn Job) -> Result<Option<Offer>, Stop> {
        // An answer that was never given is missed by the walk here.
        self.open = None;
        loop {
            if let Some(reason) = job.cancelled() {
                return Err(Stop(cancelled(&reason)));
            }
            match self.queue.recv_timeout(PATIENCE) {
                Ok(Word::File(offer, reply)) => {
                    self.open = Some(reply);
                    return Ok(Some(*offer));
                }
                Ok(Word::Proceed) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Stop("the walk ended before its end".to_owned())),
            }
        }
    }

    /// Whether a file waits for its answer.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Answers the open offer.
    pub(crate) fn answer(&mut self, taken: Taken) {
        if let Some(reply) = self.open.take() {
            // The walk's thread waits for it, whatever else happens.
            let _ = reply.send(taken);
        }
    }

    /// Leaves the open offer without an answer.
    pub(crate) fn drop_open(&mut self) {
        self.open = None;
    }
}
