//! nbdkit's option table and its parser (reference 2.1). No I/O.
//!
//! [`TABLE`] is the whole list: the parser, `--long-options` and `--short-options` read it, and whoever adds a line has to say
//! in `apply` what becomes of it. Options and parameters come in any order, long options may be abbreviated, short ones bundled.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use backstay_nbd::listen::Family;

use crate::numbers::{parse_bool, parse_delay, parse_unsigned};

/// The one that a name of the table stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are those of the options
pub enum Name {
    Foreground,
    Unix,
    Port,
    Address,
    Ipv4Only,
    Ipv6Only,
    Vsock,
    Single,
    Run,
    PidFile,
    ExportName,
    ReadOnly,
    Threads,
    Verbose,
    Debug,
    Newstyle,
    Oldstyle,
    MaskHandshake,
    NoStructuredReplies,
    NoMetaContexts,
    Log,
    User,
    Group,
    ExitWithParent,
    Filter,
    Tls,
    TlsCertificates,
    TlsPsk,
    TlsVerifyPeer,
    Swap,
    SelinuxLabel,
    DumpPlugin,
    DumpConfig,
    Help,
    Version,
    LongOptions,
    ShortOptions,
    Timeout,
    Keepalive,
    PrintUri,
}

/// One option: every spelling of it, and whether an argument follows.
#[derive(Clone, Copy, Debug)]
pub struct Spelling {
    /// Which.
    pub name: Name,
    /// The letter, if it has one.
    pub short: Option<char>,
    /// The long names without dashes.
    pub long: &'static [&'static str],
    /// Whether it takes an argument.
    pub argument: bool,
}

const fn flag(name: Name, short: Option<char>, long: &'static [&'static str]) -> Spelling {
    Spelling { name, short, long, argument: false }
}

const fn with_argument(name: Name, short: Option<char>, long: &'static [&'static str]) -> Spelling {
    Spelling { name, short, long, argument: true }
}

/// Every option of nbdkit up to 1.42.
pub const TABLE: &[Spelling] = &[
    flag(Name::Ipv4Only, Some('4'), &["ipv4-only"]),
    flag(Name::Ipv6Only, Some('6'), &["ipv6-only"]),
    with_argument(Name::Debug, Some('D'), &["debug"]),
    flag(Name::DumpConfig, None, &["dump-config"]),
    flag(Name::DumpPlugin, None, &["dump-plugin"]),
    flag(Name::ExitWithParent, None, &["exit-with-parent"]),
    with_argument(Name::ExportName, Some('e'), &["export", "export-name", "exportname"]),
    with_argument(Name::Filter, None, &["filter"]),
    flag(Name::Foreground, Some('f'), &["foreground", "no-fork"]),
    with_argument(Name::Group, Some('g'), &["group"]),
    flag(Name::Help, None, &["help"]),
    with_argument(Name::Address, Some('i'), &["ip-addr", "ipaddr"]),
    flag(Name::Keepalive, None, &["keepalive"]),
    with_argument(Name::Log, None, &["log"]),
    flag(Name::LongOptions, None, &["long-options"]),
    with_argument(Name::MaskHandshake, None, &["mask-handshake"]),
    flag(Name::Newstyle, Some('n'), &["new-style", "newstyle"]),
    flag(Name::NoMetaContexts, None, &["no-mc", "no-meta-contexts"]),
    flag(Name::NoStructuredReplies, None, &["no-sr", "no-structured-replies"]),
    flag(Name::Oldstyle, Some('o'), &["old-style", "oldstyle"]),
    with_argument(Name::PidFile, Some('P'), &["pid-file", "pidfile"]),
    with_argument(Name::Port, Some('p'), &["port"]),
    flag(Name::PrintUri, None, &["print-uri", "print-url", "show-uri", "show-url"]),
    flag(Name::ReadOnly, Some('r'), &["read-only", "readonly"]),
    with_argument(Name::Run, None, &["run"]),
    with_argument(Name::SelinuxLabel, None, &["selinux-label"]),
    flag(Name::ShortOptions, None, &["short-options"]),
    flag(Name::Single, Some('s'), &["single", "stdin"]),
    flag(Name::Swap, None, &["swap"]),
    with_argument(Name::Threads, Some('t'), &["threads"]),
    with_argument(Name::Timeout, None, &["timeout"]),
    with_argument(Name::Tls, None, &["tls"]),
    with_argument(Name::TlsCertificates, None, &["tls-certificates"]),
    with_argument(Name::TlsPsk, None, &["tls-psk"]),
    flag(Name::TlsVerifyPeer, None, &["tls-verify-peer"]),
    with_argument(Name::Unix, Some('U'), &["unix"]),
    with_argument(Name::User, Some('u'), &["user"]),
    flag(Name::Verbose, Some('v'), &["verbose"]),
    flag(Name::Version, Some('V'), &["version"]),
    flag(Name::Vsock, None, &["vsock"]),
];

/// `-U`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnixSocket {
    /// `-`: one in a folder of its own, which goes with the server.
    Private,
    /// At this path.
    Path(PathBuf),
}

/// `--log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// Standard error.
    Stderr,
    /// The system's log: facility daemon, level error.
    Syslog,
    /// Nowhere.
    Null,
}

/// `--tls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Off,
    /// If the client wants.
    On,
    /// No client without it.
    Require,
}

/// What is asked for instead of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `--help`.
    Help,
    /// `--version`.
    Version,
    /// `--long-options`.
    LongOptions,
    /// `--short-options`.
    ShortOptions,
    /// `--dump-config`.
    DumpConfig,
}

/// A command line, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is an option
pub struct Options {
    /// What is asked for instead of a server.
    pub question: Option<Question>,
    /// `-f`, or what implies it.
    pub foreground: bool,
    /// `-U`.
    pub unix: Option<UnixSocket>,
    /// `-p`: a number or a service.
    pub port: Option<String>,
    /// `-i`.
    pub address: Option<String>,
    /// `-4`, `-6`.
    pub family: Family,
    /// `--vsock`.
    pub vsock: bool,
    /// `-s`.
    pub single: bool,
    /// `--run`.
    pub run: Option<OsString>,
    /// `-P`.
    pub pid_file: Option<PathBuf>,
    /// `-e`: for `--run` and URIs only.
    pub export_name: Vec<u8>,
    /// `-r`.
    pub read_only: bool,
    /// `-t`: threads of a connection in the parallel model.
    pub threads: u32,
    /// `-v`.
    pub verbose: bool,
    /// `-D`.
    pub debug: DebugFlags,
    /// `-o`.
    pub oldstyle: bool,
    /// `--mask-handshake`.
    pub handshake_mask: u32,
    /// Not with `--no-sr`.
    pub structured_replies: bool,
    /// Not with `--no-mc`.
    pub meta_contexts: bool,
    /// `--log`; none: decided by where the server runs.
    pub log: Option<LogTo>,
    /// `-u`.
    pub user: Option<String>,
    /// `-g`.
    pub group: Option<String>,
    /// `--exit-with-parent`.
    pub exit_with_parent: bool,
    /// `--tls`; none: on if there are credentials.
    pub tls: Option<TlsMode>,
    /// `--tls-certificates`: a folder.
    pub tls_certificates: Option<PathBuf>,
    /// `--tls-psk`: a file.
    pub tls_psk: Option<PathBuf>,
    /// `--tls-verify-peer`.
    pub tls_verify_peer: bool,
    /// `--swap`.
    pub swap: bool,
    /// `--selinux-label`: of the listening sockets.
    pub selinux_label: Option<String>,
    /// `--timeout`: how long a client's handshake may take.
    pub timeout: Option<Duration>,
    /// `--dump-plugin`.
    pub dump_plugin: bool,
    /// `--keepalive`.
    pub keepalive: bool,
    /// `--print-uri`.
    pub print_uri: bool,
    /// `--filter`, the first next to the clients.
    pub filters: Vec<OsString>,
    /// The plugin, if one was named, and what follows it.
    pub plugin: Option<OsString>,
    /// Everything after the plugin that is no option.
    pub arguments: Vec<OsString>,
    /// The options word by word, for another program that takes the same ones.
    pub words: Vec<OsString>,
}

/// Which debug lines `-v` shows, of those that `-D` can silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugFlags {
    /// `nbdkit.backend.controlpath`.
    pub control_path: bool,
    /// `nbdkit.backend.datapath`.
    pub data_path: bool,
    /// Those that nothing here knows: a warning each.
    pub unknown: Vec<String>,
}

/// Threads of a connection at the most, whatever `-t` says.
pub const MOST_THREADS: u32 = 1024;
/// Threads of a connection when `-t` does not say.
pub const DEFAULT_THREADS: u32 = 16;

impl Default for Options {
    fn default() -> Self {
        Self {
            question: None,
            foreground: false,
            unix: None,
            port: None,
            address: None,
            family: Family::Any,
            vsock: false,
            single: false,
            run: None,
            pid_file: None,
            export_name: Vec::new(),
            read_only: false,
            threads: DEFAULT_THREADS,
            verbose: false,
            debug: DebugFlags { control_path: true, data_path: true, unknown: Vec::new() },
            oldstyle: false,
            handshake_mask: u32::MAX,
            structured_replies: true,
            meta_contexts: true,
            log: None,
            user: None,
            group: None,
            exit_with_parent: false,
            tls: None,
            tls_certificates: None,
            tls_psk: None,
            tls_verify_peer: false,
            swap: false,
            selinux_label: None,
            timeout: None,
            dump_plugin: false,
            keepalive: false,
            print_uri: false,
            filters: Vec::new(),
            plugin: None,
            arguments: Vec::new(),
            words: Vec::new(),
        }
    }
}

impl Options {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// One sentence that names the option; the exit status is 1.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            let bytes = argument.as_bytes();
            if bytes == b"--" {
                rest.by_ref().for_each(|word| options.word(word));
            } else if let Some(long) = bytes.strip_prefix(b"--") {
                options.words.push(argument.clone());
                options.long(long, &mut rest)?;
            } else if bytes.len() > 1 && bytes[0] == b'-' {
                options.words.push(argument.clone());
                options.bundle(&bytes[1..], &mut rest)?;
            } else {
                options.word(argument);
            }
        }
        options.finish()
    }

    fn word(&mut self, word: OsString) {
        if self.plugin.is_none() {
            self.plugin = Some(word);
        } else {
            self.arguments.push(word);
        }
    }

    fn long(&mut self, text: &[u8], rest: &mut dyn Iterator<Item = OsString>) -> Result<(), String> {
        let (name, value) = match text.iter().position(|byte| *byte == b'=') {
            Some(equals) => (&text[..equals], Some(OsStr::from_bytes(&text[equals + 1..]).to_owned())),
            None => (text, None),
        };
        let (spelling, full) = find_long(&String::from_utf8_lossy(name))?;
        let value = match (spelling.argument, value) {
            (true, Some(value)) => Some(value),
            (true, None) => {
                let value = rest.next().ok_or_else(|| format!("option '--{full}' requires an argument"))?;
                self.words.push(value.clone());
                Some(value)
            }
            (false, Some(_)) => return Err(format!("option '--{full}' doesn't allow an argument")),
            (false, None) => None,
        };
        self.apply(spelling.name, &format!("--{full}"), value.unwrap_or_default())
    }

    fn bundle(&mut self, letters: &[u8], rest: &mut dyn Iterator<Item = OsString>) -> Result<(), String> {
        for (position, letter) in letters.iter().enumerate() {
            let letter = char::from(*letter);
            let spelling = TABLE
                .iter()
                .find(|spelling| spelling.short == Some(letter))
                .ok_or_else(|| format!("invalid option -- '{letter}'"))?;
            if !spelling.argument {
                self.apply(spelling.name, &format!("-{letter}"), OsString::new())?;
                continue;
            }
            let value = match &letters[position + 1..] {
                [] => {
                    let value = rest.next().ok_or_else(|| format!("option requires an argument -- '{letter}'"))?;
                    self.words.push(value.clone());
                    value
                }
                value => OsStr::from_bytes(value).to_owned(),
            };
            return self.apply(spelling.name, &format!("-{letter}"), value);
        }
        Ok(())
    }

    /// Takes one option; `shown` is how the user spelled it.
    fn apply(&mut self, name: Name, shown: &str, value: OsString) -> Result<(), String> {
        match name {
            Name::Foreground => self.foreground = true,
            Name::Unix => self.unix = Some(unix_socket(value)),
            Name::Port => self.port = Some(text(shown, value)?),
            Name::Address => self.address = Some(text(shown, value)?),
            Name::Ipv4Only => self.family = Family::V4,
            Name::Ipv6Only => self.family = Family::V6,
            Name::Vsock => self.vsock = true,
            Name::Single => self.single = true,
            Name::Run => self.run = Some(value),
            Name::PidFile => self.pid_file = Some(value.into()),
            Name::ExportName => self.export_name = value.into_vec(),
            Name::ReadOnly => self.read_only = true,
            Name::Threads => self.threads = threads(&text(shown, value)?)?,
            Name::Verbose => self.verbose = true,
            Name::Debug => self.debug.take(&text(shown, value)?)?,
            Name::Newstyle => self.oldstyle = false,
            Name::Oldstyle => self.oldstyle = true,
            Name::MaskHandshake => self.handshake_mask = parse_unsigned("mask-handshake", &text(shown, value)?)?,
            Name::NoStructuredReplies => self.structured_replies = false,
            Name::NoMetaContexts => self.meta_contexts = false,
            Name::Log => self.log = Some(log_to(&text(shown, value)?)?),
            Name::User => self.user = Some(text(shown, value)?),
            Name::Group => self.group = Some(text(shown, value)?),
            Name::ExitWithParent => self.exit_with_parent = true,
            Name::Filter => self.filters.push(value),
            Name::Tls => self.tls = Some(tls_mode(&text(shown, value)?)?),
            Name::TlsCertificates => self.tls_certificates = Some(value.into()),
            Name::TlsPsk => self.tls_psk = Some(value.into()),
            Name::TlsVerifyPeer => self.tls_verify_peer = true,
            Name::Swap => self.swap = true,
            Name::SelinuxLabel => self.selinux_label = Some(text(shown, value)?),
            Name::DumpPlugin => self.dump_plugin = true,
            Name::DumpConfig => self.ask(Question::DumpConfig),
            Name::Help => self.ask(Question::Help),
            Name::Version => self.ask(Question::Version),
            Name::LongOptions => self.ask(Question::LongOptions),
            Name::ShortOptions => self.ask(Question::ShortOptions),
            Name::Timeout => self.timeout = handshake_limit(&text(shown, value)?)?,
            Name::Keepalive => self.keepalive = true,
            Name::PrintUri => self.print_uri = true,
        }
        Ok(())
    }

    /// The first question counts.
    fn ask(&mut self, question: Question) {
        self.question.get_or_insert(question);
    }

    /// Checks what contradicts what.
    fn finish(mut self) -> Result<Self, String> {
        let reached_by =
            [self.dump_plugin, self.port.is_some() && !self.vsock, self.single, self.unix.is_some(), self.vsock];
        // --run goes with every kind of socket; the others go with nothing.
        let exclusive =
            reached_by.iter().filter(|chosen| **chosen).count() + usize::from(self.single && self.run.is_some());
        if exclusive > 1 || (self.dump_plugin && self.run.is_some()) {
            return Err(
                "--dump-plugin, -p, --run, -s, -U or --vsock options cannot be used in this combination".to_owned()
            );
        }
        if self.single && self.print_uri {
            return Err("--print-uri: a server on standard input and output (-s) has no URI".to_owned());
        }
        if self.single && self.selinux_label.is_some() {
            return Err("--selinux-label: a server on standard input and output (-s) makes no socket".to_owned());
        }
        if self.oldstyle && self.tls == Some(TlsMode::Require) {
            return Err("cannot use oldstyle protocol (-o) and require TLS".to_owned());
        }
        if self.single || self.run.is_some() || self.exit_with_parent {
            self.foreground = true;
        }
        // As later releases do: a command needs no port that others can take.
        if self.run.is_some() && self.port.is_none() && !self.vsock {
            self.unix.get_or_insert(UnixSocket::Private);
        }
        Ok(self)
    }
}

impl DebugFlags {
    fn take(&mut self, text: &str) -> Result<(), String> {
        let wrong = || "-D (Debug Flag) must have the format NAME.FLAG=N".to_owned();
        let (flag, number) = text.split_once('=').ok_or_else(wrong)?;
        let (plugin, rest) = flag.split_once('.').ok_or_else(wrong)?;
        let number: i32 = number.parse().map_err(|_| wrong())?;
        if plugin.is_empty() || rest.is_empty() {
            return Err(wrong());
        }
        match flag {
            "nbdkit.backend.controlpath" => self.control_path = number != 0,
            "nbdkit.backend.datapath" => self.data_path = number != 0,
            _ => self.unknown.push(flag.to_owned()),
        }
        Ok(())
    }
}

/// The option that a long name, or the beginning of one, stands for.
fn find_long(name: &str) -> Result<(&'static Spelling, &'static str), String> {
    let all = || TABLE.iter().flat_map(|spelling| spelling.long.iter().map(move |long| (spelling, *long)));
    if let Some(exact) = all().find(|(_, long)| *long == name) {
        return Ok(exact);
    }
    let close: Vec<_> = all().filter(|(_, long)| long.starts_with(name)).collect();
    let first = close.first().ok_or_else(|| format!("unrecognized option '--{name}'"))?;
    if close.iter().all(|(spelling, _)| spelling.name == first.0.name) {
        return Ok(*first);
    }
    let names: Vec<_> = close.iter().map(|(_, long)| format!("'--{long}'")).collect();
    Err(format!("option '--{name}' is ambiguous; possibilities: {}", names.join(" ")))
}

fn text(shown: &str, value: OsString) -> Result<String, String> {
    value.into_string().map_err(|value| format!("{shown}: {} is not UTF-8", value.display()))
}

fn unix_socket(value: OsString) -> UnixSocket {
    if value == "-" { UnixSocket::Private } else { UnixSocket::Path(value.into()) }
}

fn threads(text: &str) -> Result<u32, String> {
    Ok(match parse_unsigned("threads", text)? {
        0 => DEFAULT_THREADS,
        number => number.min(MOST_THREADS),
    })
}

/// A delay; 0: none.
fn handshake_limit(text: &str) -> Result<Option<Duration>, String> {
    let (seconds, nanoseconds) = parse_delay("--timeout", text)?;
    let limit = Duration::new(seconds.into(), nanoseconds);
    Ok((!limit.is_zero()).then_some(limit))
}

fn log_to(text: &str) -> Result<LogTo, String> {
    Ok(match text {
        "stderr" => LogTo::Stderr,
        "syslog" => LogTo::Syslog,
        "null" => LogTo::Null,
        _ => return Err("--log must be \"stderr\", \"syslog\" or \"null\"".to_owned()),
    })
}

fn tls_mode(text: &str) -> Result<TlsMode, String> {
    if ["require", "required", "force"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Ok(TlsMode::Require);
    }
    match parse_bool(text) {
        Some(true) => Ok(TlsMode::On),
        Some(false) => Ok(TlsMode::Off),
        None => Err(format!("--tls: could not decipher boolean ({text})")),
    }
}

/// The lines of `--long-options`.
#[must_use]
pub fn long_options() -> String {
    TABLE.iter().flat_map(|spelling| spelling.long).fold(String::new(), |text, long| text + "--" + long + "\n")
}

/// The lines of `--short-options`.
#[must_use]
pub fn short_options() -> String {
    TABLE.iter().filter_map(|spelling| spelling.short).fold(String::new(), |text, short| format!("{text}-{short}\n"))
}

#[cfg(test)]
mod tests;
