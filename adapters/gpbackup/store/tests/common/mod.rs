//! A place for tests: a plugin that is a shell script, its store, and the state folder of a host.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstay_core::Store;
use backstay_stores::{OpenError, StoreOptions};
use tempfile::TempDir;

/// Keeps `TIMESTAMP/NAME` in a folder, refuses to store a key twice, and writes down what it is called with.
const GOOD: &str = r#"#!/bin/sh
word=$1 config=$2 path=$3
place=PLACE
store=$place/store
printf '%s\n' "$*" >>$place/calls
name=${path##*/}
timestamp=${path%/*}
timestamp=${timestamp##*/}
file=$store/$timestamp/$name
CASE
case $word in
    plugin_api_version) echo 0.5.0 ;;
    --version) echo 'scripted version 1.0' ;;
    setup_plugin_for_*|cleanup_plugin_for_*) ;;
    backup_data)
        [ ! -e "$file" ] || { echo "$file is there" >&2; exit 1; }
        mkdir -p "$store/$timestamp" && cat >"$store/$timestamp.$$" && mv "$store/$timestamp.$$" "$file" ;;
    restore_data) [ -f "$file" ] && cat "$file" ;;
    restore_data_subset)
        read count from to <"$4"
        tail -c +$((from + 1)) "$file" | head -c $((to - from)) ;;
    delete_backup) rm -rf "$store/$path" ;;
    *) echo "what is $word?" >&2; exit 1 ;;
esac
"#;

/// All of it in one folder.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) heard: Arc<Mutex<Vec<String>>>,
}

impl Place {
    /// A plugin that does everything well.
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// The same but for `case`, shell lines that come first.
    pub(crate) fn with(case: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), heard: Arc::default() };
        std::fs::create_dir(place.path("store")).unwrap();
        place.becomes(case);
        let text = format!("executablepath: {}\noptions:\n  folder: x\n", place.path("plugin").display());
        std::fs::write(place.path("config.yaml"), text).unwrap();
        place
    }

    /// Changes the plugin.
    pub(crate) fn becomes(&self, case: &str) {
        let text = GOOD.replace("CASE", case).replace("PLACE", self.folder.path().to_str().unwrap());
        // Another process writes it: while one of ours had it open for writing, no thread could start it.
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat >\"$0.new\" && chmod 755 \"$0.new\" && mv \"$0.new\" \"$0\""])
            .arg(self.path("plugin"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Opens the place with options of it.
    pub(crate) fn try_open(&self, options: &[&str]) -> Result<Arc<dyn Store>, OpenError> {
        let heard = Arc::clone(&self.heard);
        let options = StoreOptions {
            retry_time: Duration::from_secs(60),
            extended: options.iter().map(|text| format!("gpbackup.{text}")).collect(),
            notice: Some(Arc::new(move |text: &str| heard.lock().unwrap().push(text.to_owned()))),
            gpbackup: Some(Arc::new({
                let state = self.path("state");
                move |config, options| backstay_gpbackup_store::open(config, options, &state)
            })),
            ..StoreOptions::default()
        };
        backstay_stores::open(&format!("gpbackup:{}", self.path("config.yaml").display()), &options)
    }

    pub(crate) fn open(&self) -> Arc<dyn Store> {
        self.try_open(&[]).unwrap()
    }

    /// What was said so far, and forgets it.
    pub(crate) fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }

    /// The number that a new repository was said to have.
    pub(crate) fn series(&self) -> String {
        let heard = self.heard();
        let line = heard.iter().find(|line| line.contains("the number of this repository")).unwrap();
        line.split("gpbackup.rebuild=").nth(1).unwrap()[..7].to_owned()
    }

    /// What the plugin was called with, without paths, and forgets it.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = std::fs::remove_file(self.path("calls"));
        let short = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
        text.lines()
            .map(|line| {
                let words: Vec<_> = line.split(' ').enumerate().filter(|(number, _)| *number != 1).collect();
                words.into_iter().map(|(_, word)| short(word)).collect::<Vec<_>>().join(" ")
            })
            .collect()
    }

    /// The timestamps that there are, by their class, in order.
    pub(crate) fn timestamps(&self, class: char) -> Vec<String> {
        let all = std::fs::read_dir(self.path("store")).unwrap().map(|entry| entry.unwrap().file_name());
        let all = all.map(|name| name.into_string().unwrap());
        let mut all: Vec<_> = all.filter(|name| name.chars().nth(7) == Some(class)).collect();
        all.sort_unstable();
        all
    }

    /// The folder of the journal.
    pub(crate) fn state(&self) -> PathBuf {
        let mut all = std::fs::read_dir(self.path("state/gpbackup-store")).unwrap();
        all.next().unwrap().unwrap().path()
    }

    /// As if the host was lost.
    pub(crate) fn lose_the_journal(&self) {
        std::fs::remove_dir_all(self.path("state")).unwrap();
    }
}
