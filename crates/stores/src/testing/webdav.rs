//! A WebDAV server for tests: Debian's `nginx` with its two WebDAV modules serves a folder on loopback.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::daemon::Daemon;

const NGINX: &str = "/usr/sbin/nginx";
const MODULE: &str = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so";
/// The user that the server knows.
pub const USER: &str = "me";
/// The user's password.
pub const PASSWORD: &str = "a-password-that-nobody-may-see";

/// The server. It ends, with all its connections, when it goes out of scope.
pub struct WebDavServer {
    server: Daemon,
    folder: PathBuf,
}

impl fmt::Debug for WebDavServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebDavServer").field("port", &self.server.port).finish_non_exhaustive()
    }
}

fn command(folder: &Path, port: u16) -> Command {
    let shown = folder.display();
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let spare: String =
        ["fastcgi", "proxy", "scgi", "uwsgi"].map(|name| format!("{name}_temp_path {shown}/{name};\n")).concat();
    let config = format!(
        "load_module {MODULE};\ndaemon off;\n{user}\npid {shown}/pid;\nerror_log {shown}/error.log;\nevents {{}}\n\
         http {{\naccess_log off;\nclient_body_temp_path {shown}/arriving;\n{spare}\
         server {{\nlisten 127.0.0.1:{port};\nroot {shown}/served;\nclient_max_body_size 0;\n\
         dav_methods PUT DELETE MKCOL COPY MOVE;\ndav_ext_methods PROPFIND OPTIONS;\n\
         auth_basic test;\nauth_basic_user_file {shown}/users;\n}}\n}}\n"
    );
    std::fs::write(folder.join("nginx.conf"), config).unwrap();
    std::fs::write(folder.join("users"), format!("{USER}:{{PLAIN}}{PASSWORD}\n")).unwrap();
    let mut command = Command::new(NGINX);
    command.arg("-e").arg(folder.join("error.log")).arg("-c").arg(folder.join("nginx.conf"));
    command
}

impl WebDavServer {
    /// Starts a server whose files lie in `folder`; what it serves is in `served` below it.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        for file in [NGINX, MODULE] {
            assert!(Path::new(file).exists(), "{file} is not there: run scripts/setup test");
        }
        let folder = folder.canonicalize().unwrap();
        std::fs::create_dir_all(folder.join("served")).unwrap();
        Self { server: Daemon::start(|port| command(&folder, port)), folder }
    }

    /// The folder that is served.
    #[must_use]
    pub fn served(&self) -> PathBuf {
        self.folder.join("served")
    }

    /// Whether an upload is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        std::fs::read_dir(self.folder.join("arriving")).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// The address of a folder in the one that is served.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("webdav://127.0.0.1:{}/{path}", self.server.port)
    }

    /// The environment that holds the credentials.
    #[must_use]
    pub fn credentials() -> [(&'static str, &'static str); 2] {
        [("WEBDAV_USERNAME", USER), ("WEBDAV_PASSWORD", PASSWORD)]
    }

    /// `127.0.0.1:` and the port.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, self.server.port).into()
    }

    /// Kills the server, as if its machine went down.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again at the same port.
    pub fn restart(&mut self) {
        self.server.restart(command(&self.folder, self.server.port));
    }
}
