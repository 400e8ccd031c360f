//! Repositories behind servers: restic's REST protocol, S3, SFTP by Debian's `sshd`, WebDAV by its `nginx`. Both restics are clients
//! of the same places; of WebDAV they know nothing and work on the folder that is served.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstay_stores::LocalStore;
use backstay_stores::testing::hostile::{HostileServer, Rule};
use backstay_stores::testing::rest_server::{RestServer, RestServerOptions};
use backstay_stores::testing::s3::S3Server;
use backstay_stores::testing::sshd::Sshd;
use backstay_stores::testing::webdav::{self, WebDavServer};

use crate::place::{Place, Restic, assert_same, below, noise, succeed, summary, told};

/// The password of the REST server's user.
pub(crate) const HUSH: &str = "hush-hush";
/// The bucket.
pub(crate) const BUCKET: &str = "backup";

/// A place whose repository is behind a server.
pub(crate) struct Remote {
    pub(crate) place: Place,
    /// As we write it, and as restic does.
    pub(crate) ours: String,
    pub(crate) restics: String,
    pub(crate) server: Server,
    /// What we are told beside the address.
    options: Vec<String>,
}

/// What serves it.
pub(crate) enum Server {
    /// Kept alive.
    Rest {
        _server: RestServer,
    },
    S3(S3Server),
    Sftp(Sshd),
    WebDav(WebDavServer),
}

impl Remote {
    pub(crate) fn rest(options: &RestServerOptions) -> Self {
        let place = Place::new();
        let options = RestServerOptions { user: Some(("me".into(), HUSH.into())), ..options.clone() };
        let server = RestServer::start(Arc::new(LocalStore::new(place.path("served"))), options);
        Self {
            place,
            ours: server.url(),
            restics: server.url(),
            server: Server::Rest { _server: server },
            options: Vec::new(),
        }
    }

    pub(crate) fn s3() -> Self {
        let place = Place::new();
        std::fs::create_dir(place.path("buckets")).unwrap();
        let server = S3Server::start(&place.path("buckets"));
        server.create_bucket(BUCKET);
        let endpoint = server.endpoint();
        let ours = format!("s3://{BUCKET}/some/repo?endpoint={endpoint}");
        let restics = format!("s3:{endpoint}/{BUCKET}/some/repo");
        Self { place, ours, restics, server: Server::S3(server), options: Vec::new() }
    }

    pub(crate) fn sftp() -> Self {
        let place = Place::new();
        let folder = place.path("ssh");
        std::fs::create_dir(&folder).unwrap();
        let server = Sshd::start(&folder);
        // restic of Debian 12 knows no option for ssh's arguments: it finds another ssh.
        let bin = place.path("bin");
        std::fs::create_dir(&bin).unwrap();
        let script = format!("#!/bin/sh\nexec /usr/bin/ssh -F {}/client \"$@\"\n", folder.display());
        std::fs::write(bin.join("ssh"), script).unwrap();
        succeed(Command::new("chmod").arg("755").arg(bin.join("ssh")));
        let url = server.url(&place.path("served"));
        let options = vec![server.client()];
        Self { place, ours: url.clone(), restics: url, server: Server::Sftp(server), options }
    }

    pub(crate) fn webdav() -> Self {
        let place = Place::new();
        let folder = place.path("web");
        std::fs::create_dir(&folder).unwrap();
        let server = WebDavServer::start(&folder);
        let restics = server.served().join("a/repo").to_str().unwrap().to_owned();
        Self { place, ours: server.url("a/repo"), restics, server: Server::WebDav(server), options: Vec::new() }
    }

    fn nginx(&mut self) -> &mut WebDavServer {
        match &mut self.server {
            Server::WebDav(nginx) => nginx,
            _ => unreachable!("only of WebDAV"),
        }
    }

    fn sshd(&mut self) -> &mut Sshd {
        match &mut self.server {
            Server::Sftp(sshd) => sshd,
            _ => unreachable!("only of SFTP"),
        }
    }

    /// The same repository through a server that spoils what these rules say. Only for us.
    pub(crate) fn spoiled(&mut self, rules: Vec<Rule>) -> HostileServer {
        match &self.server {
            Server::Rest { .. } | Server::Sftp(_) | Server::WebDav(_) => unreachable!("only in front of S3"),
            Server::S3(server) => {
                let hostile = HostileServer::start(server.address(), rules);
                self.ours = format!("s3://{BUCKET}/some/repo?endpoint=http://{}", hostile.address());
                hostile
            }
        }
    }

    fn here(&self, mut command: Command, address: &str) -> Command {
        // Nothing from the machine's own clouds.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command
            .envs(S3Server::credentials())
            .envs(WebDavServer::credentials())
            .env("RESTIC_REPOSITORY", address)
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    /// `backstay` on the repository.
    pub(crate) fn backstay<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let options = self.options.iter().flat_map(|option| ["-o", option]);
        let mut command = self.here(self.place.backstay(options), &self.ours);
        command.args(arguments);
        command
    }

    /// Runs `backstay`, which must succeed; its standard output.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        succeed(&mut self.backstay(arguments))
    }

    /// Runs `backstay`, which must fail with one line on standard error that shows no secret; that line.
    pub(crate) fn fails<A: AsRef<OsStr>>(&self, status: i32, arguments: impl IntoIterator<Item = A>) -> String {
        let mut command = self.backstay(arguments);
        let output: Output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", told(&command, &output));
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(text.trim_end().lines().count(), 1, "{}", told(&command, &output));
        for secret in [HUSH, backstay_stores::testing::s3::SECRET_KEY, webdav::PASSWORD] {
            assert!(!text.contains(secret), "{}", told(&command, &output));
        }
        text
    }

    fn restic<A: AsRef<OsStr>>(&self, which: Restic, arguments: impl IntoIterator<Item = A>) -> String {
        let mut command = self.here(self.place.restic_command(which), &self.restics);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.place.path("bin").display()));
        succeed(command.args(arguments))
    }

    /// A tree to save.
    pub(crate) fn tree(&self) -> PathBuf {
        let tree = self.place.path("tree");
        std::fs::create_dir_all(tree.join("folder/empty")).unwrap();
        std::fs::write(tree.join("folder/large"), noise(7, 6 << 20)).unwrap();
        std::fs::write(tree.join("text"), "A line of text that says little.\n".repeat(500)).unwrap();
        for number in 0..20 {
            std::fs::write(tree.join(format!("small {number}")), noise(number, 100 * number as usize)).unwrap();
        }
        tree
    }

    /// Our programs' restore of the newest snapshot, and both restics', equal the tree.
    fn assert_restores(&self, tree: &Path, name: &str) {
        let target = self.place.path(&format!("restored {name}"));
        succeed(self.backstay(["restore", "latest", "--target"]).arg(&target));
        assert_same(tree, &below(&target, tree), &[]);
        for restic in Restic::BOTH {
            let target = self.place.path(&format!("restored {name} {restic:?}"));
            self.restic(restic, ["restore".as_ref(), "latest".as_ref(), "--target".as_ref(), target.as_os_str()]);
            assert_same(tree, &below(&target, tree), &[]);
        }
    }

    fn assert_sound(&self) {
        self.run(["check", "--read-data"]);
        self.restic(Restic::Old, ["check", "--read-data"]);
        let rewritten = self.restic(Restic::Next, ["rewrite", "--exclude", "nothing-matches", "--dry-run"]);
        assert!(!rewritten.contains("without losing information"), "{rewritten}");
    }
}

/// Everything that a user does in a month: by us, and each restic going on from there.
fn a_month(remote: &Remote) {
    let tree = remote.tree();
    remote.run(["init"]);
    let line = remote.fails(1, ["init"]);
    assert!(line.contains("already"), "{line}");
    let saved = |lines: &str| summary(lines)["data_blobs"].as_u64().unwrap_or(0);
    assert!(saved(&succeed(remote.backstay(["--json", "backup"]).arg(&tree))) > 0);
    assert_eq!(saved(&succeed(remote.backstay(["--json", "backup"]).arg(&tree))), 0);
    remote.assert_restores(&tree, "first");
    for restic in Restic::BOTH {
        let name = format!("from restic {restic:?}");
        std::fs::write(tree.join(&name), noise(restic as u64 + 1000, 300_000)).unwrap();
        remote.restic(restic, ["backup".as_ref(), tree.as_os_str()]);
        assert!(remote.run(["ls", "latest"]).contains(&name));
    }
    std::fs::write(tree.join("from us"), noise(2000, 300_000)).unwrap();
    assert!(saved(&succeed(remote.backstay(["--json", "backup"]).arg(&tree))) > 0);
    remote.assert_sound();
    remote.run(["forget", "--keep-last", "1"]);
    remote.run(["prune"]);
    remote.assert_sound();
    remote.restic(Restic::Next, ["forget", "--keep-last", "1", "--prune"]);
    remote.assert_restores(&tree, "last");
}

#[test]
fn a_repository_on_a_rest_server_serves_us_and_both_restics_in_turn() {
    a_month(&Remote::rest(&RestServerOptions::default()));
}

#[test]
fn a_repository_on_a_rest_server_of_version_1_serves_us_and_both_restics_in_turn() {
    a_month(&Remote::rest(&RestServerOptions { version: 1, ..RestServerOptions::default() }));
}

#[test]
fn a_repository_in_a_bucket_serves_us_and_both_restics_in_turn() {
    a_month(&Remote::s3());
}

/// The server stands in for restic's own in our tests: so restic must be content with it.
#[test]
fn both_restics_do_all_their_work_on_our_rest_server() {
    for restic in Restic::BOTH {
        for version in [1, 2] {
            let remote = Remote::rest(&RestServerOptions { version, ..RestServerOptions::default() });
            let tree = remote.tree();
            remote.restic(restic, ["init"]);
            for number in 0..2 {
                std::fs::write(tree.join("changing"), noise(number, 200_000)).unwrap();
                remote.restic(restic, ["backup".as_ref(), tree.as_os_str()]);
            }
            remote.restic(restic, ["forget", "--keep-last", "1", "--prune"]);
            remote.restic(restic, ["check", "--read-data"]);
            let target = remote.place.path("restored");
            remote.restic(restic, ["restore".as_ref(), "latest".as_ref(), "--target".as_ref(), target.as_os_str()]);
            assert_same(&tree, &below(&target, &tree), &[]);
        }
    }
}

#[test]
fn an_append_only_rest_server_takes_backups_and_lets_nothing_be_forgotten() {
    let remote = Remote::rest(&RestServerOptions { append_only: true, ..RestServerOptions::default() });
    let tree = remote.tree();
    remote.run(["init"]);
    for number in 0..2 {
        std::fs::write(tree.join("changing"), noise(number, 2000)).unwrap();
        succeed(remote.backstay(["backup"]).arg(&tree));
    }
    let line = remote.fails(3, ["forget", "--keep-last", "1"]);
    assert!(line.contains("append-only"), "{line}");
    assert_eq!(remote.run(["--json", "snapshots"]).lines().count(), 2);
    remote.run(["check", "--read-data"]);
}

#[test]
fn a_wrong_password_of_the_rest_server_is_one_line() {
    let mut remote = Remote::rest(&RestServerOptions::default());
    remote.run(["init"]);
    remote.ours = remote.ours.replace(HUSH, "wrong-word");
    let line = remote.fails(1, ["snapshots"]);
    assert!(line.contains("password") && line.contains("401") && !line.contains("wrong-word"), "{line}");
}

#[test]
fn a_rest_server_or_a_bucket_without_a_repository_is_exit_status_10() {
    for remote in [Remote::rest(&RestServerOptions::default()), Remote::s3()] {
        let line = remote.fails(10, ["snapshots"]);
        assert!(line.contains("127.0.0.1"), "{line}");
    }
}

#[test]
fn a_repository_behind_sshd_serves_us_and_both_restics_in_turn() {
    let remote = Remote::sftp();
    a_month(&remote);
    // Nobody left anything of his uploads behind.
    let names = succeed(Command::new("find").arg(remote.place.path("served")).args(["-name", "*tmp*"]));
    assert_eq!(names, "");
}

#[test]
fn a_stranger_and_an_unknown_host_are_one_line_and_make_no_repository() {
    let mut remote = Remote::sftp();
    remote.options = vec![remote.sshd().stranger()];
    let line = remote.fails(1, ["init"]);
    assert!(line.contains("credentials") && line.contains("Permission denied (publickey)"), "{line}");
    remote.options = vec![remote.sshd().newcomer()];
    let line = remote.fails(1, ["init"]);
    assert!(line.contains("host's key is not known") && line.contains("sftp.known-hosts=add"), "{line}");
    remote.options = vec![remote.sshd().client()];
    let line = remote.fails(10, ["snapshots"]);
    assert!(line.contains("127.0.0.1"), "{line}");
    assert!(!remote.place.path("served").exists());
}

#[test]
fn an_sshd_that_is_not_there_or_serves_no_sftp_is_one_line() {
    let mut remote = Remote::sftp();
    remote.options = vec!["sftp.command=sh -c 'echo Welcome'".to_owned()];
    let line = remote.fails(1, ["snapshots"]);
    assert!(line.contains("is not SFTP"), "{line}");
    remote.options = vec![remote.sshd().client()];
    remote.sshd().kill();
    let line = remote.fails(1, ["--retry-time", "0", "snapshots"]);
    assert!(line.contains("Connection refused"), "{line}");
}

/// Kills the server when the first pack has arrived; the backup ends with one line, and the next one with everything saved.
fn assert_outlives(mut remote: Remote, packs: &Path, kill: fn(&mut Remote), restart: fn(&mut Remote)) {
    let tree = remote.tree();
    std::fs::write(tree.join("long"), noise(77, 200 << 20)).unwrap();
    remote.run(["init"]);
    let mut command = remote.backstay(["--retry-time", "0", "backup"]);
    let backup = command.arg(&tree).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(120);
    while std::fs::read_dir(packs).unwrap().count() == 0 {
        assert!(Instant::now() < until, "no pack arrives");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(&mut remote);
    let output = backup.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&command, &output));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.lines().filter(|line| line.starts_with("backstay: ")).count(), 1, "{}", told(&command, &output));
    assert!(!text.contains("panicked"), "{text}");

    restart(&mut remote);
    remote.run(["unlock"]);
    remote.run(["check", "--read-data"]);
    succeed(remote.backstay(["backup"]).arg(&tree));
    remote.assert_restores(&tree, "again");
    remote.assert_sound();
}

#[test]
fn an_sshd_that_is_killed_in_the_middle_of_a_backup_is_one_line_and_the_next_backup_ends_well() {
    let remote = Remote::sftp();
    let packs = remote.place.path("served/data");
    assert_outlives(remote, &packs, |remote| remote.sshd().kill(), |remote| remote.sshd().restart());
}

#[test]
fn a_webdav_server_that_is_killed_in_the_middle_of_a_backup_is_one_line_and_the_next_backup_ends_well() {
    let mut remote = Remote::webdav();
    let packs = remote.nginx().served().join("a/repo/data");
    assert_outlives(remote, &packs, |remote| remote.nginx().kill(), |remote| remote.nginx().restart());
}

#[test]
fn a_repository_behind_webdav_serves_us_and_both_restics_in_turn() {
    let mut remote = Remote::webdav();
    a_month(&remote);
    let names = succeed(Command::new("find").arg(remote.nginx().served()).args(["-name", "*tmp*"]));
    assert_eq!(names, "");
}

#[test]
fn a_wrong_password_of_the_webdav_server_is_one_line() {
    let mut remote = Remote::webdav();
    let line = remote.fails(10, ["snapshots"]);
    assert!(line.contains("127.0.0.1"), "{line}");
    remote.ours = remote.ours.replace("//", "//me:wrong-word@");
    let line = remote.fails(1, ["init"]);
    assert!(line.contains("password") && line.contains("401") && !line.contains("wrong-word"), "{line}");
    remote.nginx().kill();
    // Tried again, it may be told in a warning of its own that the server makes us wait.
    let line = remote.fails(1, ["--retry-time", "0", "snapshots"]);
    assert!(line.contains("nobody answers"), "{line}");
}

#[test]
fn a_backup_over_sftp_that_is_killed_leaves_no_ssh_behind() {
    let mut remote = Remote::sftp();
    let tree = remote.tree();
    std::fs::write(tree.join("long"), noise(78, 200 << 20)).unwrap();
    remote.run(["init"]);
    let mut backup = remote.backstay(["backup"]).arg(&tree).stdout(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(120);
    while remote.sshd().connections() == 0 {
        assert!(Instant::now() < until && backup.try_wait().unwrap().is_none(), "no connection comes");
    }
    backup.kill().unwrap();
    backup.wait().unwrap();
    while remote.sshd().connections() > 0 {
        assert!(Instant::now() < until, "{} connections are left", remote.sshd().connections());
        std::thread::sleep(Duration::from_millis(20));
    }
}
