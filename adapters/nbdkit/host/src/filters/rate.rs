//! The filter `rate`: so many bits a second and no more, in each direction.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstay_core::{Client, Connection, Disk, DiskError, OpenDisk, OpenError, ReadBytes, RequestFlags};
use parking_lot::Mutex;

use crate::filter::Filter;
use crate::layer::{Layer, Layered, OpenLayer};
use crate::log;
use crate::numbers::parse_size;
use crate::plugin::Step;
use crate::values::Given;

/// Its name.
const NAME: &str = "rate";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &["rate", "connection-rate", "rate-file", "connection-rate-file", "burstiness"];
/// Seconds' worth that may be had at once after a pause, unless it is said.
const BURST: f64 = 2.0;
/// Bytes of a file with a rate that are read.
const LONGEST: u64 = 64;
/// How often a file with a rate is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A rate as it was given.
#[derive(Clone, Default)]
struct Limit {
    /// Bits a second.
    rate: Option<u64>,
    file: Option<PathBuf>,
}

/// The filter.
pub(super) struct Rate {
    all: Limit,
    each: Limit,
    burst: f64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { all: Limit::default(), each: Limit::default(), burst: BURST }
    }
}

impl Filter for Rate {
    fn name(&self) -> &'static str {
        NAME
    }

    fn help(&self) -> &'static str {
        "\
         rate=<BITSPERSEC>, connection-rate=<BITSPERSEC>\n\
         rate-file=<PATH>, connection-rate-file=<PATH>\n\
         \x20                     Files with rates that may change\n\
         burstiness=<SECONDS>  [default: 2]\n"
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<bool> {
        let given = Given { owner: NAME, key, value };
        let rate = || match given.size()? {
            0 => Err(given.wrong("it must be more than 0 bits a second")),
            rate => Ok(Some(rate)),
        };
        match key {
            "rate" => self.all.rate = rate()?,
            "connection-rate" => self.each.rate = rate()?,
            "rate-file" => self.all.file = Some(given.path()?),
            "connection-rate-file" => self.each.file = Some(given.path()?),
            "burstiness" => {
                let seconds = given.text()?.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0);
                self.burst = seconds.ok_or_else(|| given.wrong("it must be a number of seconds, more than 0"))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn wrap(self: Box<Self>, disk: Arc<dyn Disk>) -> Step<Arc<dyn Disk>> {
        let all = Arc::new(Directions::new(&self.all, self.burst));
        Ok(Arc::new(Layered(Front { disk, all, each: self.each, burst: self.burst })))
    }
}

/// Bits that may be had now. It is filled by time and may be emptied below nothing: then whoever emptied it waits.
struct Bucket {
    limit: Limit,
    burst: f64,
    level: f64,
    filled: Instant,
    looked: Option<Instant>,
}

/// The text of a small file; nothing that could let us wait is read.
fn read(path: &Path) -> Option<String> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = std::fs::File::options().read(true).custom_flags(nonblocking).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

impl Bucket {
    fn new(limit: &Limit, burst: f64, now: Instant) -> Self {
        let level = limit.rate.map_or(0.0, |rate| rate as f64 * burst);
        Self { limit: limit.clone(), burst, level, filled: now, looked: None }
    }

    /// Reads the rate from its file, if that is there.
    fn look(&mut self, now: Instant) {
        let Some(file) = &self.limit.file else { return };
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            return;
        }
        self.looked = Some(now);
        let Some(text) = read(file) else { return };
        match parse_size(text.trim()).map(u64::try_from) {
            Ok(Ok(rate)) if rate > 0 => {
                let rate = Some(rate);
                if self.limit.rate.is_none() {
                    self.filled = now;
                }
                self.limit.rate = rate;
            }
            _ => log::error(None, &format!("{NAME}: {}: '{}' is no rate", file.display(), text.trim())),
        }
    }

    /// Takes bits, and says for how long to wait for them.
    fn take(&mut self, bits: f64, now: Instant) -> Duration {
        self.look(now);
        let Some(rate) = self.limit.rate else { return Duration::ZERO };
        let rate = rate as f64;
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.level = (self.level + passed * rate).min(rate * self.burst) - bits;
        if self.level >= 0.0 {
            Duration::ZERO
        } else {
            Duration::try_from_secs_f64(-self.level / rate).unwrap_or(Duration::MAX)
        }
    }
}

/// Both directions.
struct Directions {
    read: Mutex<Bucket>,
    write: Mutex<Bucket>,
}

impl Directions {
    fn new(limit: &Limit, burst: f64) -> Self {
        let now = Instant::now();
        Self { read: Mutex::new(Bucket::new(limit, burst, now)), write: Mutex::new(Bucket::new(limit, burst, now)) }
    }
}

struct Front {
    disk: Arc<dyn Disk>,
    all: Arc<Directions>,
    each: Limit,
    burst: f64,
}

impl Layer for Front {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        let disk = self.disk.open(export, client)?;
        let each = Directions::new(&self.each, self.burst);
        Ok(Box::new(Layered(Open { disk, all: Arc::clone(&self.all), each, connection: client.connection.clone() })))
    }
}

struct Open {
    disk: Box<dyn OpenDisk>,
    all: Arc<Directions>,
    each: Directions,
    connection: Connection,
}

impl Open {
    fn wait(&self, bytes: usize, direction: fn(&Directions) -> &Mutex<Bucket>) -> Result<(), DiskError> {
        let bits = bytes as f64 * 8.0;
        let take = |from: &Directions| direction(from).lock().take(bits, Instant::now());
        let time = take(&self.all).max(take(&self.each));
        if time.is_zero() || self.connection.sleep(time) { Ok(()) } else { Err(DiskError(libc::ESHUTDOWN)) }
    }
}

impl OpenLayer for Open {
    fn below(&self) -> &dyn OpenDisk {
        &*self.disk
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        self.wait(length, |directions| &directions.read)?;
        self.disk.read(offset, length)
    }

    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        self.wait(data.len(), |directions| &directions.write)?;
        self.disk.write(offset, data, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{content, filtered, half_full, open, refusal};

    #[test]
    fn a_bucket_gives_what_time_has_put_in() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut bucket = Bucket::new(&Limit { rate: Some(1000), file: None }, 2.0, begin);
        assert_eq!(bucket.take(2000.0, begin), Duration::ZERO);
        assert_eq!(bucket.take(500.0, begin), Duration::from_millis(500));
        // The debt is paid by time first; then it fills up to two seconds' worth.
        assert_eq!(bucket.take(500.0, after(1)), Duration::ZERO);
        assert_eq!(bucket.take(2000.0, after(100)), Duration::ZERO);
        assert_eq!(bucket.take(3000.0, after(100)), Duration::from_secs(3));
    }

    #[test]
    fn a_rate_comes_from_its_file_while_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rate");
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut bucket = Bucket::new(&Limit { rate: None, file: Some(file.clone()) }, 2.0, begin);
        assert_eq!(bucket.take(1e9, begin), Duration::ZERO);
        std::fs::write(&file, "1k\n").unwrap();
        assert_eq!(bucket.take(1024.0, after(2)), Duration::from_secs(1));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(bucket.take(2048.0, after(4)), Duration::from_secs(1));
    }

    #[test]
    fn a_disk_without_a_limit_is_as_it_was() {
        let (memory, bytes) = half_full(1 << 16);
        let disk = open(&*filtered(Rate::default(), &[], memory).unwrap());
        assert!(content(&*disk) == bytes);
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let refused = |key: &str, value: &str| refusal(Rate::default().config(key, value.as_ref()));
        assert!(refused("rate", "0").contains("more than 0"));
        assert!(refused("connection-rate", "fast").starts_with("rate: connection-rate=fast: "));
        assert!(refused("burstiness", "-1").contains("seconds"));
    }
}
