//! A configuration that was gpbackup_s3_plugin's, and the backups that it made, against an S3 server in this process.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use backstay_stores::testing::s3::{ACCESS_KEY, REGION, S3Server, SECRET_KEY};

const OLD: &str = "20240131120000";
const OTHER: &str = "20240131120001";
const NEW: &str = "20260131120000";

/// A host whose configuration names a bucket.
struct Host {
    folder: tempfile::TempDir,
    server: S3Server,
}

impl Host {
    fn new(agent: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("served/bucket")).unwrap();
        let server = S3Server::start(&folder.path().join("served"));
        let host = Self { folder, server };
        std::fs::write(host.path("password"), "correct horse").unwrap();
        let agents = if agent { host.text("agents") } else { "off".to_owned() };
        host.configure(&format!("  agent: {agents}\n"), &host.server.address().to_string());
        host
    }

    /// As that plugin has it, with what we need.
    fn configure(&self, lines: &str, endpoint: &str) {
        let text = format!(
            "executablepath: {}\noptions:\n  bucket: bucket\n  folder: greenplum/prod\n  endpoint: {endpoint}\n  region: {REGION}\n  \
             aws_access_key_id: {ACCESS_KEY}\n  aws_secret_access_key: {SECRET_KEY}\n  encryption: \"off\"\n  \
             backup_max_concurrent_requests: 3\n  backup_multipart_chunksize: 10MB\n  password_file: {}\n{lines}",
            env!("CARGO_BIN_EXE_backstay_gpbackup_plugin"),
            self.text("password"),
        );
        std::fs::write(self.path("config.yaml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn key(&self, timestamp: &str, name: &str) -> String {
        self.text(&format!("gpseg0/backups/{}/{timestamp}/{name}", &timestamp[..8]))
    }

    /// An object as that plugin stores it.
    fn plant(&self, timestamp: &str, name: &str, content: &[u8]) {
        let path = self.path(&format!("served/bucket/greenplum/prod/backups/{}/{timestamp}/{name}", &timestamp[..8]));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn command(&self, word: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstay_gpbackup_plugin"));
        command.arg(word).arg(self.path("config.yaml")).args(arguments);
        command.env_clear().env("HOME", self.path("home")).env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, word: &str, arguments: &[&str]) -> Output {
        self.command(word, arguments).output().unwrap()
    }

    #[track_caller]
    fn good(&self, word: &str, arguments: &[&str]) -> Vec<u8> {
        let output = self.run(word, arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        output.stdout
    }

    #[track_caller]
    fn bad(&self, word: &str, arguments: &[&str]) -> String {
        let output = self.run(word, arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && output.stdout.is_empty() && told.lines().count() == 1, "{told}");
        assert!(!told.contains(SECRET_KEY), "{told}");
        told
    }

    fn store(&self, key: &str, content: &[u8]) {
        let mut child = self.command("backup_data", &[key]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(content).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn objects(&self, below: &str) -> Vec<String> {
        let all = self.server.objects("bucket").into_iter().map(|(name, _)| name);
        all.filter(|name| name.starts_with(below)).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Where there is no folder there is no agent.
        let _ = backstay_gpbackup_plugin::agent::stop_all(&self.path("agents"));
    }
}

fn content(length: u32) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn the_old_configuration_with_a_password_keeps_a_repository_beside_the_old_backups() {
    for agent in [true, false] {
        let host = Host::new(agent);
        let key = host.key(NEW, &format!("gpbackup_0_{NEW}"));
        let data = content(3_000_000);
        host.good("setup_plugin_for_backup", &[host.key(NEW, "").trim_end_matches('/'), "master", "\"-1\""]);
        host.store(&key, &data);
        assert!(host.good("restore_data", &[&key]) == data);
        let packs = host.objects("greenplum/prod/backstay/data/").len();
        assert!(packs > 0 && host.objects("greenplum/prod/backstay/config").len() == 1);
        assert_eq!(host.objects("greenplum/prod/backups"), Vec::<String>::new());
    }
}

#[test]
fn backups_of_that_plugin_restore_and_go_with_their_timestamp() {
    for agent in [true, false] {
        let host = Host::new(agent);
        let (name, report) = (format!("gpbackup_0_{OLD}"), format!("gpbackup_{OLD}_report"));
        let data = content(40_000_000);
        host.plant(OLD, &name, &data);
        host.plant(OLD, &report, b"all is well\n");
        host.plant(OLD, "empty", b"");
        host.plant(OTHER, "neighbour", b"stays");
        let key = host.key(OLD, &name);
        // Before there is any repository.
        assert!(host.good("restore_data", &[&key]) == data);
        let file = host.key(OLD, &report);
        host.good("setup_plugin_for_restore", &[host.key(OLD, "").trim_end_matches('/'), "master", "\"-1\""]);
        host.good("restore_file", &[&file]);
        assert_eq!(std::fs::read(&file).unwrap(), b"all is well\n");
        assert_eq!(host.good("restore_data", &[&host.key(OLD, "empty")]), b"");
        std::fs::write(host.path("offsets"), "2 5 9 20000000 20000100").unwrap();
        let ranges = host.good("restore_data_subset", &[&key, &host.text("offsets")]);
        assert_eq!(ranges, [&data[5..9], &data[20_000_000..20_000_100]].concat());
        std::fs::write(host.path("offsets"), "1 5 40000001").unwrap();
        assert!(host.bad("restore_data_subset", &[&key, &host.text("offsets")]).contains("ends behind"));

        // What was stored here counts before what anybody may put there.
        let both = host.key(NEW, "both");
        host.store(&both, b"of the repository");
        host.plant(NEW, "both", b"of somebody");
        assert_eq!(host.good("restore_data", &[&both]), b"of the repository");
        assert!(host.good("restore_data", &[&key]) == data, "with a repository too");
        let missing = host.key(OLD, "missing");
        assert!(host.bad("restore_data", &[&missing]).contains("there is no object"));
        assert!(host.bad("restore_file", &[&missing]).contains("there is no object"));
        assert!(!PathBuf::from(&missing).exists());

        host.good("delete_backup", &[OLD]);
        assert!(host.bad("restore_data", &[&key]).contains("there is no object"));
        assert_eq!(host.objects("greenplum/prod/backups/20240131").len(), 1);
        assert_eq!(host.good("restore_data", &[&host.key(OTHER, "neighbour")]), b"stays");
        host.good("delete_backup", &[OLD]);
    }
}

#[test]
fn a_reader_that_has_enough_of_an_old_object_is_no_incident() {
    let host = Host::new(false);
    host.plant(OLD, "x", &content(40_000_000));
    let mut child = host.command("restore_data", &[&host.key(OLD, "x")]).spawn().unwrap();
    let mut some = [0; 1000];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn wrong_credentials_and_a_missing_bucket_are_told() {
    let host = Host::new(false);
    host.plant(OLD, "x", b"x");
    let path = host.path("config.yaml");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, good.replace(SECRET_KEY, "another-secret")).unwrap();
    assert!(host.bad("restore_data", &[&host.key(OLD, "x")]).contains("credentials"));
    std::fs::write(&path, good.replace("bucket: bucket", "bucket: another")).unwrap();
    assert!(host.bad("restore_data", &[&host.key(OLD, "x")]).contains("no such bucket"));
    std::fs::write(&path, good.replace("folder: greenplum/prod", "folder: /x/")).unwrap();
    assert!(host.bad("restore_data", &[&host.key(OLD, "x")]).contains("the option folder"));
}

#[test]
fn requests_go_through_the_proxy_that_the_option_names() {
    let host = Host::new(false);
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    host.configure(
        &format!("  agent: \"off\"\n  http_proxy: http://{}\n", proxy.local_addr().unwrap()),
        "far.invalid:80",
    );
    let mut child = host.command("restore_data", &[&host.key(OLD, "x")]).spawn().unwrap();
    let (mut connection, _) = proxy.accept().unwrap();
    let mut asked = vec![0; 200];
    let count = connection.read(&mut asked).unwrap();
    let asked = String::from_utf8_lossy(&asked[..count]).into_owned();
    assert!(asked.starts_with("GET http://far.invalid/bucket/greenplum/prod/backstay/"), "{asked}");
    child.kill().unwrap();
    child.wait().unwrap();
}
