//! The filter `delay`: every call takes longer.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use backstay_core::{
    Client, Connection, Disk, DiskError, DiskInfo, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags,
};

use crate::control;
use crate::filter::Filter;
use crate::layer::{Layer, Layered, OpenLayer};
use crate::numbers::parse_delay;
use crate::plugin::Step;
use crate::values::Given;

/// Its name.
const NAME: &str = "delay";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &[
    "rdelay",
    "wdelay",
    "delay-read",
    "delay-write",
    "delay-zero",
    "delay-trim",
    "delay-extents",
    "delay-cache",
    "delay-fast-zero",
    "delay-open",
    "delay-close",
];

/// The filter: how long each call waits.
#[derive(Clone)]
pub(super) struct Delay {
    read: Duration,
    write: Duration,
    zero: Duration,
    trim: Duration,
    extents: Duration,
    cache: Duration,
    fast_zero: bool,
    open: Duration,
    close: Duration,
}

impl Default for Delay {
    fn default() -> Self {
        let none = Duration::ZERO;
        Self {
            read: none,
            write: none,
            zero: none,
            trim: none,
            extents: none,
            cache: none,
            fast_zero: true,
            open: none,
            close: none,
        }
    }
}

impl Filter for Delay {
    fn name(&self) -> &'static str {
        NAME
    }

    fn help(&self) -> &'static str {
        "\
         rdelay=<DELAY>, delay-read=<DELAY>\n\
         wdelay=<DELAY>        Writes, zeroes and trims\n\
         delay-write=<DELAY>, delay-zero=<DELAY>, delay-trim=<DELAY>, delay-extents=<DELAY>,\n\
         delay-cache=<DELAY>, delay-open=<DELAY>, delay-close=<DELAY>\n\
         delay-fast-zero=true|false\n"
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<bool> {
        let given = Given { owner: NAME, key, value };
        let delay = || -> Step<Duration> {
            let (seconds, nanoseconds) = parse_delay(key, given.text()?).map_err(|error| given.wrong(error))?;
            Ok(Duration::new(seconds.into(), nanoseconds))
        };
        match key {
            "rdelay" | "delay-read" => self.read = delay()?,
            "wdelay" => {
                self.write = delay()?;
                (self.zero, self.trim) = (self.write, self.write);
            }
            "delay-write" => self.write = delay()?,
            "delay-zero" => self.zero = delay()?,
            "delay-trim" => self.trim = delay()?,
            "delay-extents" => self.extents = delay()?,
            "delay-cache" => self.cache = delay()?,
            "delay-fast-zero" => self.fast_zero = given.boolean()?,
            "delay-open" => self.open = delay()?,
            "delay-close" => self.close = delay()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn wrap(self: Box<Self>, disk: Arc<dyn Disk>) -> Step<Arc<dyn Disk>> {
        Ok(Arc::new(Layered(Front { disk, delays: *self })))
    }
}

struct Front {
    disk: Arc<dyn Disk>,
    delays: Delay,
}

impl Layer for Front {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        if !self.delays.open.is_zero() && !client.connection.sleep(self.delays.open) {
            return Err(OpenError::Close(format!("{NAME}: the connection ended while it was delayed")));
        }
        let disk = self.disk.open(export, client)?;
        let delays = self.delays.clone();
        Ok(Box::new(Layered(Open { disk, delays, connection: client.connection.clone() })))
    }
}

struct Open {
    disk: Box<dyn OpenDisk>,
    delays: Delay,
    connection: Connection,
}

impl Open {
    fn wait(&self, time: Duration) -> Result<(), DiskError> {
        if time.is_zero() || self.connection.sleep(time) { Ok(()) } else { Err(DiskError(libc::ESHUTDOWN)) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // The connection is over by now: only the server's end ends this.
        if !self.delays.close.is_zero() {
            control::sleep(self.delays.close);
        }
    }
}

impl OpenLayer for Open {
    fn below(&self) -> &dyn OpenDisk {
        &*self.disk
    }

    fn info(&self) -> &DiskInfo {
        self.disk.info()
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        self.wait(self.delays.read)?;
        self.disk.read(offset, length)
    }

    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        self.wait(self.delays.write)?;
        self.disk.write(offset, data, flags)
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.wait(self.delays.trim)?;
        self.disk.trim(offset, length, flags)
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        if flags.fast_zero && !self.delays.fast_zero {
            return Err(DiskError(libc::EOPNOTSUPP));
        }
        self.wait(self.delays.zero)?;
        self.disk.zero(offset, length, flags)
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.wait(self.delays.cache)?;
        self.disk.cache(offset, length)
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        self.wait(self.delays.extents)?;
        self.disk.extents(offset, length, flags)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use backstay_core::ServerControl;

    use super::*;
    use crate::testing::{filtered, half_full, refusal};

    /// A server on which time passes at once, until the connection ends.
    #[derive(Default)]
    struct Clock {
        slept: Mutex<Vec<Duration>>,
        over: bool,
    }

    impl ServerControl for Clock {
        fn shutdown(&self) {}

        fn disconnect(&self, _force: bool) {}

        fn sleep(&self, time: Duration) -> bool {
            self.slept.lock().unwrap().push(time);
            !self.over
        }
    }

    fn delayed(parameters: &[(&str, &str)], over: bool) -> (Result<Box<dyn OpenDisk>, OpenError>, Arc<Clock>) {
        let disk = filtered(Delay::default(), parameters, half_full(1 << 16).0).unwrap();
        let clock = Arc::new(Clock { over, ..Clock::default() });
        let connection = Connection::new(Arc::clone(&clock) as _);
        (disk.open(b"", &Client { connection, ..Client::default() }), clock)
    }

    #[test]
    fn every_kind_of_call_waits_as_long_as_it_was_told() {
        let all = [
            ("rdelay", "1"),
            ("wdelay", "2"),
            ("delay-zero", "3ms"),
            ("delay-trim", "4ms"),
            ("delay-extents", "5ms"),
            ("delay-cache", "6ms"),
            ("delay-open", "7us"),
        ];
        let (disk, clock) = delayed(&all, false);
        let (disk, flags) = (disk.unwrap(), RequestFlags::default());
        drop(disk.read(0, 1).unwrap());
        disk.write(0, &[1], flags).unwrap();
        disk.zero(0, 1, flags).unwrap();
        disk.trim(0, 1, flags).unwrap();
        disk.extents(0, 1, flags).unwrap();
        disk.cache(0, 1).unwrap();
        disk.flush().unwrap();
        let milliseconds = |times: &[u64]| times.iter().map(|time| Duration::from_millis(*time)).collect::<Vec<_>>();
        let mut expected = vec![Duration::from_micros(7)];
        expected.extend(milliseconds(&[1000, 2000, 3, 4, 5, 6]));
        assert_eq!(*clock.slept.lock().unwrap(), expected);
    }

    #[test]
    fn a_delay_ends_with_the_connection() {
        let (disk, _) = delayed(&[("rdelay", "100")], true);
        assert_eq!(disk.unwrap().read(0, 1).err(), Some(DiskError(libc::ESHUTDOWN)));
        assert!(matches!(delayed(&[("delay-open", "100")], true).0, Err(OpenError::Close(_))));
    }

    #[test]
    fn fast_zeroes_fail_at_once_when_they_are_not_to_wait() {
        let (disk, clock) = delayed(&[("delay-zero", "100"), ("delay-fast-zero", "no")], false);
        let fast = RequestFlags { fast_zero: true, ..RequestFlags::default() };
        assert_eq!(disk.unwrap().zero(0, 1, fast), Err(DiskError(libc::EOPNOTSUPP)));
        assert!(clock.slept.lock().unwrap().is_empty());
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let refused = |key: &str, value: &str| refusal(Delay::default().config(key, value.as_ref()));
        assert!(refused("rdelay", "1h").starts_with("delay: rdelay=1h: "));
        assert!(refused("delay-fast-zero", "perhaps").contains("true or false"));
        assert_eq!(Delay::default().config("size", "1".as_ref()), Ok(false));
    }
}
