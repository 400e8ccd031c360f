//! The filter `error`: some calls fail, to see what clients make of it.

use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backstay_core::{Client, Disk, DiskError, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags};

use crate::filter::Filter;
use crate::layer::{Layer, Layered, OpenLayer};
use crate::log;
use crate::plugin::Step;
use crate::values::Given;

/// Its name.
const NAME: &str = "error";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &[
    "error",
    "error-rate",
    "error-file",
    "error-pread",
    "error-pread-rate",
    "error-pread-file",
    "error-pwrite",
    "error-pwrite-rate",
    "error-pwrite-file",
    "error-trim",
    "error-trim-rate",
    "error-trim-file",
    "error-zero",
    "error-zero-rate",
    "error-zero-file",
    "error-extents",
    "error-extents-rate",
    "error-extents-file",
    "error-cache",
    "error-cache-rate",
    "error-cache-file",
];

/// The calls that can fail.
#[derive(Clone, Copy)]
enum Call {
    Pread,
    Pwrite,
    Trim,
    Zero,
    Extents,
    Cache,
}

/// As they are spelled.
const CALLS: [&str; 6] = ["pread", "pwrite", "trim", "zero", "extents", "cache"];

/// The errors that the protocol has.
const ERRORS: [(&str, i32); 6] = [
    ("EPERM", libc::EPERM),
    ("EIO", libc::EIO),
    ("ENOMEM", libc::ENOMEM),
    ("EINVAL", libc::EINVAL),
    ("ENOSPC", libc::ENOSPC),
    ("ESHUTDOWN", libc::ESHUTDOWN),
];

/// How one kind of calls fails.
#[derive(Clone)]
struct Fault {
    error: (&'static str, i32),
    rate: f64,
    /// It fails only while this is there.
    file: Option<PathBuf>,
}

/// The filter.
pub(super) struct ErrorFilter {
    faults: [Fault; CALLS.len()],
}

impl Default for ErrorFilter {
    fn default() -> Self {
        let fault = Fault { error: ("EIO", libc::EIO), rate: 0.0, file: None };
        Self { faults: std::array::from_fn(|_| fault.clone()) }
    }
}

impl Filter for ErrorFilter {
    fn name(&self) -> &'static str {
        NAME
    }

    fn help(&self) -> &'static str {
        "\
         error=EPERM|EIO|ENOMEM|EINVAL|ENOSPC|ESHUTDOWN\n\
         \x20                     [default: EIO]\n\
         error-rate=<RATE>     0%..100%, or 0..1\n\
         error-file=<PATH>     Only while this file exists\n\
         error-pread*, error-pwrite*, error-trim*, error-zero*, error-extents*, error-cache*\n\
         \x20                     The same for one kind of request\n"
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<bool> {
        if !PARAMETERS.contains(&key) {
            return Ok(false);
        }
        let given = Given { owner: NAME, key, value };
        let mut words = key.split('-').skip(1).peekable();
        let call = words.peek().and_then(|word| CALLS.iter().position(|call| call == word));
        let what = if call.is_some() { words.nth(1) } else { words.next() };
        let faults = match call {
            Some(call) => &mut self.faults[call..=call],
            None => &mut self.faults[..],
        };
        match what {
            None => {
                let name = given.text()?;
                let error = ERRORS.into_iter().find(|(known, _)| *known == name);
                let known = ERRORS.map(|(name, _)| name).join(", ");
                let error = error.ok_or_else(|| given.wrong(format!("there are {known}")))?;
                faults.iter_mut().for_each(|fault| fault.error = error);
            }
            Some("rate") => {
                let rate = given.probability()?;
                faults.iter_mut().for_each(|fault| fault.rate = rate);
            }
            Some(_) => {
                let path = given.path()?;
                faults.iter_mut().for_each(|fault| fault.file = Some(path.clone()));
            }
        }
        Ok(true)
    }

    fn wrap(self: Box<Self>, disk: Arc<dyn Disk>) -> Step<Arc<dyn Disk>> {
        let chance = Arc::new(Chance { faults: self.faults, state: AtomicU64::new(RandomState::new().hash_one(NAME)) });
        Ok(Arc::new(Layered(Front { disk, chance })))
    }
}

/// What decides which calls fail.
struct Chance {
    faults: [Fault; CALLS.len()],
    state: AtomicU64,
}

impl Chance {
    /// A random number, at least 0 and less than 1 (SplitMix64).
    fn random(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn strike(&self, call: Call, connection: u64) -> Result<(), DiskError> {
        let fault = &self.faults[call as usize];
        let strikes = fault.rate > 0.0
            && fault.file.as_ref().is_none_or(|file| file.exists())
            && (fault.rate >= 1.0 || self.random() < fault.rate);
        if !strikes {
            return Ok(());
        }
        let (name, number) = fault.error;
        log::error(Some((NAME, connection)), &format!("injecting {name} error into {}", CALLS[call as usize]));
        Err(DiskError(number))
    }
}

struct Front {
    disk: Arc<dyn Disk>,
    chance: Arc<Chance>,
}

impl Layer for Front {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        let disk = self.disk.open(export, client)?;
        Ok(Box::new(Layered(Open { disk, chance: Arc::clone(&self.chance), connection: client.number })))
    }
}

struct Open {
    disk: Box<dyn OpenDisk>,
    chance: Arc<Chance>,
    connection: u64,
}

impl Open {
    fn strike(&self, call: Call) -> Result<(), DiskError> {
        self.chance.strike(call, self.connection)
    }
}

impl OpenLayer for Open {
    fn below(&self) -> &dyn OpenDisk {
        &*self.disk
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        self.strike(Call::Pread)?;
        self.disk.read(offset, length)
    }

    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        self.strike(Call::Pwrite)?;
        self.disk.write(offset, data, flags)
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.strike(Call::Trim)?;
        self.disk.trim(offset, length, flags)
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.strike(Call::Zero)?;
        self.disk.zero(offset, length, flags)
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.strike(Call::Cache)?;
        self.disk.cache(offset, length)
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        self.strike(Call::Extents)?;
        self.disk.extents(offset, length, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::LogTo;
    use crate::testing::{filtered, half_full, open, refusal};

    fn faulty(parameters: &[(&str, &str)]) -> Box<dyn OpenDisk> {
        // Each failure is told, and nobody here needs to read it.
        log::set_destination(LogTo::Null);
        open(&*filtered(ErrorFilter::default(), parameters, half_full(1 << 16).0).unwrap())
    }

    #[test]
    fn each_kind_of_call_fails_in_its_own_way() {
        let disk = faulty(&[
            ("error", "ENOSPC"),
            ("error-rate", "100%"),
            ("error-pread", "EPERM"),
            ("error-trim-rate", "0"),
            ("error-cache-file", "/nonexistent"),
        ]);
        let flags = RequestFlags::default();
        let failed = |number| Err(DiskError(number));
        assert_eq!(disk.read(0, 1).map(|_| ()), failed(libc::EPERM));
        assert_eq!(disk.write(0, &[0], flags), failed(libc::ENOSPC));
        assert_eq!(disk.zero(0, 1, flags), failed(libc::ENOSPC));
        assert_eq!(disk.extents(0, 1, flags).map(|_| ()), failed(libc::ENOSPC));
        assert_eq!(disk.trim(0, 1, flags), Ok(()));
        assert_eq!(disk.cache(0, 1), Ok(()));
        assert_eq!(disk.flush(), Ok(()));
    }

    #[test]
    fn a_rate_is_about_the_share_of_calls_that_fail() {
        let disk = faulty(&[("error-pread-rate", "1:4")]);
        let failed = (0..4000).filter(|_| disk.read(0, 1).is_err()).count();
        assert!((800..1200).contains(&failed), "{failed}");
    }

    #[test]
    fn errors_come_while_the_file_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trigger");
        let disk = faulty(&[("error-rate", "1"), ("error-file", file.to_str().unwrap())]);
        assert!(disk.read(0, 1).is_ok());
        std::fs::write(&file, "").unwrap();
        assert!(disk.read(0, 1).is_err());
        std::fs::remove_file(&file).unwrap();
        assert!(disk.read(0, 1).is_ok());
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let refused = |key: &str, value: &str| refusal(ErrorFilter::default().config(key, value.as_ref()));
        assert!(refused("error", "EFOO").contains("ESHUTDOWN"));
        assert!(refused("error-zero-rate", "3").starts_with("error: error-zero-rate=3: "));
        assert_eq!(ErrorFilter::default().config("error-flush", "EIO".as_ref()), Ok(false));
    }
}
