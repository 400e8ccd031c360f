//! Plugins for tests: shell scripts that do one thing wrong, and the example.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backstay_gpbackup_host::plugin::Settings;
use backstay_gpbackup_host::process::Limits;
use backstay_gpbackup_host::{Failure, Key, Plugin, Timestamp, UserConfig};
use tempfile::TempDir;

/// A plugin that keeps objects in a folder; `$store` is it, `$name` the object's file in it.
const GOOD: &str = r#"#!/bin/sh
word=$1 config=$2 path=$3
store=STORE
printf '%s\n' "$*" >>$store/../calls
name=$store/$(basename "$(dirname "$path")" 2>/dev/null).$(basename "$path" 2>/dev/null)
CASE
case $word in
    plugin_api_version) echo 0.5.0 ;;
    --version) echo 'scripted version 1.0' ;;
    setup_plugin_for_*|cleanup_plugin_for_*) ;;
    backup_file) cp "$path" "$name" ;;
    backup_data) cat >"$name.$$" && mv "$name.$$" "$name" ;;
    restore_file) [ -f "$name" ] && cp "$name" "$path" ;;
    restore_data) cat "$name" ;;
    delete_backup) rm -f $store/"$path".* ;;
    *) echo "what is $word?" >&2; exit 1 ;;
esac
"#;

/// A folder with a plugin, its configuration and its store.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) limits: Limits,
}

impl Place {
    /// A plugin that does everything well but for `case`, shell lines that come first.
    pub(crate) fn with(case: &str) -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
            limits: Limits { patience: Duration::from_secs(20), ..Limits::default() },
        };
        std::fs::create_dir(place.path("store")).unwrap();
        let text = GOOD.replace("CASE", case).replace("STORE", place.path("store").to_str().unwrap());
        place.write_plugin(&text);
        place
    }

    /// The example of the repository.
    pub(crate) fn example() -> Self {
        let place = Self::with("");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/folder_plugin").canonicalize().unwrap();
        place.configure(&script);
        place
    }

    fn write_plugin(&self, text: &str) {
        // Another process writes it: while one of ours had it open for writing, no thread could start it.
        let plugin = self.path("plugin");
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
            .arg(&plugin)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        self.configure(&plugin);
    }

    fn configure(&self, plugin: &Path) {
        let text =
            format!("executablepath: {}\noptions:\n  folder: {}\n", plugin.display(), self.path("store").display());
        std::fs::write(self.path("config.yaml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn user_config(&self) -> UserConfig {
        UserConfig::read(&self.path("config.yaml")).unwrap()
    }

    pub(crate) fn try_open(&self) -> Result<Plugin, Failure> {
        let settings = Settings { limits: self.limits.clone(), port: 6000, recorded_version: String::new() };
        Plugin::open(&self.user_config(), &self.path("run"), settings)
    }

    pub(crate) fn open(&self) -> Plugin {
        self.try_open().unwrap()
    }

    /// What the plugin was called with.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Gives up as soon as this file is there.
    pub(crate) fn stop_at(&mut self, file: &str) {
        let file = self.path(file);
        self.limits.stop = Arc::new(move || file.exists());
    }
}

pub(crate) fn key(name: &str) -> Key {
    Key::new(Timestamp::parse("95972435002754").unwrap(), name).unwrap()
}

/// Bytes without a pattern that a period of two would show.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(count)
    .collect()
}
