//! How much a backup of file trees will have to do: a quick look at names and sizes beside the backup, only where
//! somebody watches the progress. What it finds is for the bar and nothing else.

use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use backstay_engine::backup::BackupOptions;
use backstay_engine::excludes::{Excludes, Rules};
use backstay_engine::tree::absolute;

use crate::output::Output;
use crate::progress::Counters;

/// The thread that looks; it ends early when this is dropped.
#[derive(Debug)]
pub struct Estimate {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Estimate {
    /// Starts to look at the trees of `options`, if there are any and somebody watches.
    #[must_use]
    pub fn start(output: &Output, counters: &Arc<Counters>, options: &BackupOptions) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watched = output.json || (!output.quiet && std::io::stderr().is_terminal());
        // The rules of a FileSet are for the walk alone.
        let thread = (watched && !options.paths.is_empty() && options.tree.selector.is_none())
            .then(|| {
                let (stop, counters) = (Arc::clone(&stop), Arc::clone(counters));
                let roots: Vec<PathBuf> = options.paths.iter().filter_map(|path| absolute(path).ok()).collect();
                let (tree, one_file_system) = (options.tree.clone(), options.tree.one_file_system);
                let look = move || {
                    let rules = Rules {
                        excludes: &tree.excludes,
                        iexcludes: &tree.iexcludes,
                        exclude_files: &tree.exclude_files,
                        iexclude_files: &tree.iexclude_files,
                        exclude_larger_than: tree.exclude_larger_than,
                        ..Rules::default()
                    };
                    // Rules that cannot be used are the backup's to report.
                    let Ok(excludes) = Excludes::new(&rules) else { return };
                    let mut look = Look { excludes, one_file_system, stop: &stop, files: 0, bytes: 0 };
                    if roots.iter().all(|root| look.tree(root)) {
                        counters.expect(look.files, look.bytes);
                    }
                };
                std::thread::Builder::new().name("estimate".to_owned()).spawn(look).ok()
            })
            .flatten();
        Self { stop, thread }
    }

    /// Ends the look.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Estimate {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Look<'a> {
    excludes: Excludes,
    one_file_system: bool,
    stop: &'a AtomicBool,
    files: u64,
    bytes: u64,
}

impl Look<'_> {
    /// Counts what is in a tree; false when it was told to stop.
    fn tree(&mut self, root: &Path) -> bool {
        let Ok(top) = root.symlink_metadata() else { return true };
        if !top.is_dir() {
            self.files += u64::from(top.is_file());
            self.bytes += if top.is_file() { top.len() } else { 0 };
            return true;
        }
        let device = top.dev();
        let mut waiting = vec![root.to_owned()];
        while let Some(folder) = waiting.pop() {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.filter_map(Result::ok) {
                let path = entry.path();
                let bytes = path.as_os_str().as_bytes();
                let Ok(found) = entry.metadata() else { continue };
                if self.excludes.by_pattern(bytes).is_some()
                    || (self.excludes.wants_kind()
                        && self.excludes.by_ignore_file(bytes, found.is_dir(), false).is_some())
                {
                    continue;
                }
                if found.is_dir() {
                    if !self.one_file_system || found.dev() == device {
                        waiting.push(path);
                    }
                } else if found.is_file() && self.excludes.by_size(found.len()).is_none() {
                    self.files += 1;
                    self.bytes += found.len();
                }
            }
        }
        true
    }
}
