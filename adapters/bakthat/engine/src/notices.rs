//! What people are told while a store makes them wait.

use std::sync::Arc;

use backstay_stores::Notice;
use parking_lot::Mutex;

/// What was not told yet. A store that makes one call wait makes others wait too, so that there are few.
static UNTOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// For a store that is opened.
pub(crate) fn notice() -> Notice {
    Arc::new(|text| UNTOLD.lock().push(text.to_owned()))
}

/// What is to be told now, each line once.
#[must_use]
pub fn untold() -> Vec<String> {
    std::mem::take(&mut UNTOLD.lock())
}
