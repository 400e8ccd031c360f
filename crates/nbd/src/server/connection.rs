//! A connection before transmission: admission, greeting, options.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use backstay_core::{Client, Connection, OpenError};

use crate::guarded::Guarded;
use crate::handshake::{Agreement, Handshake, OpenRequest, Opened, Step};
use crate::server::line::Line;
use crate::server::session::Session;
use crate::server::shared::{Level, Shared};

/// What one call of the system brings before transmission, in bytes.
const RECEIVE: usize = 4 << 10;

/// Serves a connection to its end.
pub(crate) fn serve(line: &Arc<Line>) {
    let shared = &line.shared;
    let Some(_admission) = shared.gate.admit() else { return };
    let client = client(line);
    if let Err(reason) = shared.gate.call(|| shared.disk.preconnect(&client)) {
        line.log(Level::Debug, &reason);
        return;
    }
    line.stream.set_limit(shared.settings.handshake_limit.and_then(|limit| Instant::now().checked_add(limit)));
    let negotiated = Negotiation { line, shared, client, default_export: None, opened: None }.run();
    match negotiated {
        Ok(Some((disk, agreed, arrived))) => {
            line.stream.set_limit(None);
            Session::serve(line, disk, agreed, arrived);
        }
        Ok(None) => {}
        Err(error) => line.log(Level::Debug, &error.to_string()),
    }
}

fn client(line: &Arc<Line>) -> Client {
    Client {
        number: line.number,
        tls: false,
        certificate: None,
        read_only: line.shared.settings.read_only,
        peer: line.stream.peer(),
        security_context: line.stream.peer_context(),
        connection: Connection::new(Arc::clone(line) as _),
    }
}

struct Negotiation<'a> {
    line: &'a Arc<Line>,
    shared: &'a Shared,
    client: Client,
    /// What the empty name stands for, once it was asked for.
    default_export: Option<Option<Vec<u8>>>,
    opened: Option<Guarded>,
}

impl Negotiation<'_> {
    /// An open disk, what was agreed on, and what has arrived of the transmission; none: the connection is over.
    fn run(mut self) -> io::Result<Option<(Guarded, Agreement, Vec<u8>)>> {
        let mut out = Vec::new();
        let mut input = Vec::new();
        let (mut handshake, mut step) = Handshake::begin(self.shared.settings.terms, &mut out);
        loop {
            if self.line.is_refusing() {
                step = Step::Close;
            }
            if !out.is_empty() && matches!(step, Step::More | Step::Close | Step::Start(_) | Step::Encrypt) {
                self.line.write_all(&mut [IoSlice::new(&out)])?;
                out.clear();
            }
            step = match step {
                Step::More => self.receive(&mut handshake, &mut input, &mut out)?,
                Step::List => self.list(&mut handshake, &mut out),
                Step::Open(request) => self.open(&request, &mut handshake, &mut out),
                Step::Start(agreed) => return Ok(self.opened.take().map(|disk| (disk, agreed, input))),
                Step::Encrypt => self.encrypt(&mut handshake, std::mem::take(&mut input)),
                Step::Close => return Ok(None),
            };
        }
    }

    /// Gives the handshake what has arrived, and more if that is not enough.
    fn receive(&self, handshake: &mut Handshake, input: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<Step> {
        let mut step = give(handshake, input, out);
        while step == Step::More && out.is_empty() {
            input.reserve(RECEIVE);
            if self.line.read(input, false)? == 0 {
                return Ok(Step::Close);
            }
            step = give(handshake, input, out);
        }
        Ok(step)
    }

    /// Encrypts the connection; `arrived` is what the client has sent of that. What was agreed on before counts no more.
    fn encrypt(&mut self, handshake: &mut Handshake, arrived: Vec<u8>) -> Step {
        let encrypted = match &self.shared.settings.credentials {
            Some(credentials) => self.line.encrypt(credentials, arrived),
            None => return Step::Close,
        };
        match encrypted {
            Ok(certificate) => {
                self.client.tls = true;
                self.client.certificate = certificate;
                self.default_export = None;
                handshake.encrypted()
            }
            Err(error) => {
                self.line.log(Level::Error, &format!("the connection cannot be encrypted: {error}"));
                Step::Close
            }
        }
    }

    fn list(&mut self, handshake: &mut Handshake, out: &mut Vec<u8>) -> Step {
        let exports = self.shared.gate.call(|| self.shared.disk.exports(&self.client));
        if let Err(reason) = &exports {
            self.line.log(Level::Error, reason);
        }
        handshake.listed(exports.ok().as_deref(), out)
    }

    fn open(&mut self, request: &OpenRequest, handshake: &mut Handshake, out: &mut Vec<u8>) -> Step {
        let structured = handshake.structured_replies();
        match self.open_disk(request, structured) {
            Ok((disk, export)) => {
                if request.only_info {
                    self.shared.gate.call(|| drop(disk));
                } else {
                    self.opened = Some(disk);
                }
                handshake.opened(Some(&export), out)
            }
            Err(OpenError::Refused(reason)) => {
                self.line.log(Level::Error, &reason);
                handshake.opened(None, out)
            }
            Err(OpenError::Close(reason)) => {
                self.line.log(Level::Error, &reason);
                Step::Close
            }
        }
    }

    /// Opens what the client asks for and finds out what it wants to know.
    fn open_disk(&mut self, request: &OpenRequest, structured: bool) -> Result<(Guarded, Opened), OpenError> {
        let shared = self.shared;
        let no_default = || OpenError::Refused("there is no default export".to_owned());
        let name = match &request.name[..] {
            [] => self.default_export().ok_or_else(no_default)?,
            name => name.to_vec(),
        };
        let guard = |disk| {
            Guarded::new(disk, shared.settings.read_only, shared.disk.threads())
                .map_err(|error| OpenError::Refused(error.to_string()))
        };
        let disk = shared.gate.call(|| shared.disk.open(&name, &self.client).and_then(guard))?;
        match shared.gate.call(|| disk.infos(&name, &request.wanted)) {
            Ok(infos) => {
                let flags = disk.flags(structured).0;
                let export = Opened { size: disk.size(), flags, infos };
                Ok((disk, export))
            }
            Err(error) => {
                shared.gate.call(|| drop(disk));
                Err(OpenError::Close(error.to_string()))
            }
        }
    }

    fn default_export(&mut self) -> Option<Vec<u8>> {
        if self.default_export.is_none() {
            let name = self.shared.gate.call(|| self.shared.disk.default_export(&self.client));
            self.default_export = Some(name.filter(|name| crate::codec::is_string(name)));
        }
        self.default_export.clone().flatten()
    }
}

impl Drop for Negotiation<'_> {
    fn drop(&mut self) {
        if let Some(disk) = self.opened.take() {
            self.shared.gate.call(|| drop(disk));
        }
    }
}

fn give(handshake: &mut Handshake, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Step {
    let (consumed, step) = handshake.receive(input, out);
    input.drain(..consumed);
    step
}
