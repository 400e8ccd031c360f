//! OpenSSH's server for tests: Debian's `sshd` on loopback, with keys, configuration and known hosts of its own in a folder.
//! Nothing of the system's or the user's SSH is read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::daemon::Daemon;

const SSHD: &str = "/usr/sbin/sshd";

/// The server. It ends, with all its connections, when it goes out of scope.
pub struct Sshd {
    server: Daemon,
    folder: PathBuf,
}

impl fmt::Debug for Sshd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sshd").field("port", &self.server.port).finish_non_exhaustive()
    }
}

impl Sshd {
    /// Starts a server whose files lie in `folder`, which is there. Whoever has the key in it is the user that runs the test.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        assert!(Path::new(SSHD).exists(), "{SSHD} is not there: run scripts/setup test");
        let folder = folder.canonicalize().unwrap();
        for key in ["host-key", "user-key", "stranger-key"] {
            let file = folder.join(key);
            if !file.exists() {
                let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&file).status();
                assert!(made.unwrap().success());
            }
        }
        if rustix::process::geteuid().is_root() {
            // Where sshd locks its unprivileged half in; Debian makes it when the system starts.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let sshd = Self { server: Daemon::start(|port| command(&folder, port)), folder };
        sshd.write_client();
        sshd
    }

    fn write_client(&self) {
        let folder = self.folder.display();
        let key = std::fs::read_to_string(self.folder.join("host-key.pub")).unwrap();
        let known = format!("[127.0.0.1]:{} {key}", self.server.port);
        std::fs::write(self.folder.join("known-hosts"), known).unwrap();
        let usual = "GlobalKnownHostsFile none\nIdentitiesOnly yes\nPreferredAuthentications publickey\n";
        for (name, hosts, key) in [
            ("client", "known-hosts", "user-key"),
            ("stranger", "known-hosts", "stranger-key"),
            ("newcomer", "no-known-hosts", "user-key"),
        ] {
            let text = format!("{usual}UserKnownHostsFile {folder}/{hosts}\nIdentityFile {folder}/{key}\n");
            std::fs::write(self.folder.join(name), text).unwrap();
        }
    }

    /// The address of a folder behind the server, for us and for restic.
    #[must_use]
    pub fn url(&self, path: &Path) -> String {
        format!("sftp://127.0.0.1:{}/{}", self.server.port, path.display())
    }

    /// The option with which a client finds its key and knows the host.
    #[must_use]
    pub fn client(&self) -> String {
        self.arguments("client")
    }

    /// The same with a key that the server does not know.
    #[must_use]
    pub fn stranger(&self) -> String {
        self.arguments("stranger")
    }

    /// The same for somebody who does not know the host.
    #[must_use]
    pub fn newcomer(&self) -> String {
        self.arguments("newcomer")
    }

    fn arguments(&self, name: &str) -> String {
        format!("sftp.args=-F {}", self.folder.join(name).display())
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.server.children()
    }

    /// Kills the server and every connection, as if its machine went down.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again at the same port.
    pub fn restart(&mut self) {
        self.server.restart(command(&self.folder, self.server.port));
    }
}

fn command(folder: &Path, port: u16) -> Command {
    let shown = folder.display();
    std::fs::copy(folder.join("user-key.pub"), folder.join("authorized-keys")).unwrap();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {shown}/host-key\nPidFile none\n\
         AuthorizedKeysFile {shown}/authorized-keys\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\n"
    );
    std::fs::write(folder.join("sshd.conf"), config).unwrap();
    let mut command = Command::new(SSHD);
    command.args(["-D", "-f"]).arg(folder.join("sshd.conf")).arg("-E").arg(folder.join("sshd.log"));
    command
}
