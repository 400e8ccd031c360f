//! What is printed instead of serving: `--help`, `--version`, `--dump-config` (reference 2.1).

use std::path::{Path, PathBuf};

use crate::filter::Filter;
use crate::plugin::Plugin;

/// The release of nbdkit whose contract this is.
pub const CONTRACT: &str = "1.42.3";

/// What `--help` says of the server.
const HELP: &str = "\
Usage: nbdkit [OPTIONS] PLUGIN [KEY=VALUE...] [OPTIONS]

Serves a disk by the NBD protocol: one that a Python script makes up (python SCRIPT), or one of
the plugins memory, file, null and pattern. nbdkit PLUGIN --help tells a plugin's parameters.

Where:
  -U, --unix SOCKET|-       Listen on a Unix socket; -: one in a folder of its own
  -p, --port PORT           Listen on a TCP port or service [default: 10809]
  -i, --ipaddr ADDRESS      Listen on this address only
  -4, -6                    IPv4 only, IPv6 only
      --vsock               Listen on AF_VSOCK
  -s, --single              Serve one client on standard input and output
      --run COMMAND         Run a command beside the server: $uri, $unixsocket, $port, $exportname
  -e, --exportname NAME     The export in $uri
      --print-uri           Print the URI

How:
  -r, --readonly            Read only
  -t, --threads N           Threads of a connection in the parallel thread model [default: 16]
  -n, -o                    Newstyle protocol (the default), oldstyle protocol
      --mask-handshake N    Handshake flags that may be offered
      --no-sr, --no-mc      No structured replies, no meta contexts
      --filter NAME         Put a filter in front of the plugin; the first is next to the clients:
                            cow, cache, delay, error, log, offset, readahead, rate, truncate
      --keepalive           TCP keepalive
      --timeout T           Time for a client's handshake (90, 1500ms ...) [default: any]
      --selinux-label L     Label of the listening sockets
      --tls off|on|require  Encryption [default: on if there are certificates]
      --tls-certificates DIR
                            ca-cert.pem, server-cert.pem, server-key.pem and perhaps ca-crl.pem
      --tls-psk FILE        Keys instead of certificates: lines USERNAME:HEXKEY
      --tls-verify-peer     Clients need a certificate too

Process:
  -f, --foreground          Stay in the foreground
  -P, --pidfile FILE        Write the process number to a file
  -u, --user USER, -g, --group GROUP
                            Become them after the sockets are open
      --exit-with-parent    End with the process that started this one
      --swap                Lock all memory
  -v, --verbose             Debug messages on standard error
  -D, --debug NAME.FLAG=N   A debug flag
      --log stderr|syslog|null

Questions:
      --dump-plugin, --dump-config, --help, -V, --version, --long-options, --short-options
";

/// The lines of `--help`.
#[must_use]
pub fn help(plugin: Option<&dyn Plugin>, filters: &[Box<dyn Filter>]) -> String {
    let plugin = plugin.map(|plugin| format!("\nplugin: {}\n{}", plugin.name(), plugin.help()));
    let filters = filters.iter().map(|filter| format!("\nfilter: {}\n{}", filter.name(), filter.help()));
    filters.fold(HELP.to_owned() + &plugin.unwrap_or_default(), |text, filter| text + &filter)
}

/// The lines of `--version`.
#[must_use]
pub fn version(plugin: Option<&str>) -> String {
    let own = format!("nbdkit {CONTRACT} (backstay {})\n", env!("CARGO_PKG_VERSION"));
    own + &plugin.map(|name| format!("{name} {CONTRACT}\n")).unwrap_or_default()
}

/// Where plugins that are scripts may lie, as `nbdkit-NAME-plugin`: the folder in the variable `NBDKIT_PLUGINDIR`, else beside
/// this program, then where nbdkit's packages put them.
#[must_use]
pub fn plugin_folders() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os("NBDKIT_PLUGINDIR").filter(|named| !named.is_empty()) {
        return std::env::split_paths(&named).collect();
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.parent()?.join("lib/nbdkit/plugins")));
    let usual = [
        "/usr/local/lib/nbdkit/plugins".to_owned(),
        format!("/usr/lib/{}-linux-gnu/nbdkit/plugins", std::env::consts::ARCH),
        "/usr/lib64/nbdkit/plugins".to_owned(),
        "/usr/lib/nbdkit/plugins".to_owned(),
    ];
    beside.into_iter().chain(usual.into_iter().map(PathBuf::from)).collect()
}

/// The lines of `--dump-config`, for the program at this path.
#[must_use]
pub fn config(program: &Path) -> String {
    let folder = program.parent().unwrap_or(Path::new("/")).display().to_string();
    let folders = plugin_folders();
    let plugins = folders.iter().find(|folder| folder.is_dir()).or(folders.first()).cloned().unwrap_or_default();
    let mut parts = CONTRACT.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let lines = [
        ("binary", program.display().to_string()),
        ("bindir", folder.clone()),
        ("exit_with_parent", "yes".to_owned()),
        ("filterdir", folder.clone()),
        ("host_cpu", std::env::consts::ARCH.to_owned()),
        ("host_os", "linux-gnu".to_owned()),
        ("libdir", folder.clone()),
        ("mandir", folder.clone()),
        ("name", "nbdkit".to_owned()),
        ("plugindir", plugins.display().to_string()),
        ("root_tls_certificates_dir", crate::tls::ROOT_FOLDER.to_owned()),
        ("sbindir", folder),
        ("selinux", "yes".to_owned()),
        ("sysconfdir", "/etc".to_owned()),
        ("tls", "yes".to_owned()),
        ("version", CONTRACT.to_owned()),
        ("version_major", major.to_owned()),
        ("version_minor", minor.to_owned()),
        ("zstd", "no".to_owned()),
    ];
    lines.iter().fold(String::new(), |text, (key, value)| text + key + "=" + value + "\n")
}
