//! A server that lies between a client and a good server and spoils what it is told to: answers of its own, answers cut
//! short or lost, uploads that break off. For tests.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use super::http::{Answer, HttpServer, Manner, Request};

/// What is done to a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// This answer; the good server never hears of it.
    Answer(Answer),
    /// The good server's answer, sent in this manner: `Manner::Reset` is an answer that is lost.
    Spoil(Manner),
    /// The good server's answer with its bytes replaced by others, as many.
    Garble,
    /// So many bytes of the body are taken, then the connection is reset. The good server never hears of it.
    ResetInUpload(u64),
}

/// When to do it.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The method, or any.
    pub method: Option<&'static str>,
    /// What the path with its query contains.
    pub path: String,
    /// How many such requests pass unharmed first.
    pub after: usize,
    /// To how many it is done then.
    pub times: usize,
    /// What is done.
    pub act: Act,
}

impl Rule {
    /// For every request.
    #[must_use]
    pub fn always(act: Act) -> Self {
        Self { method: None, path: String::new(), after: 0, times: usize::MAX, act }
    }

    /// For requests with this method whose path contains this.
    #[must_use]
    pub fn on(method: &'static str, path: &str, act: Act) -> Self {
        Self { method: Some(method), path: path.to_owned(), after: 0, times: usize::MAX, act }
    }

    /// Only so many times.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Only after so many have passed.
    #[must_use]
    pub fn after(mut self, after: usize) -> Self {
        self.after = after;
        self
    }
}

/// The server. It ends when it goes out of scope.
pub struct HostileServer {
    http: HttpServer,
    done: Arc<Mutex<Vec<(Rule, usize, usize)>>>,
}

impl fmt::Debug for HostileServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostileServer").field("http", &self.http).finish_non_exhaustive()
    }
}

impl HostileServer {
    /// Stands before the good server at this address. The first rule that fits a request counts; without one it passes.
    #[must_use]
    pub fn start(good: SocketAddr, rules: Vec<Rule>) -> Self {
        let done = Arc::new(Mutex::new(rules.into_iter().map(|rule| (rule, 0, 0)).collect::<Vec<_>>()));
        let rules = Arc::clone(&done);
        let http = HttpServer::start(move |request: &mut Request<'_>| match act(&rules, request) {
            None => forward(good, request).unwrap_or_else(|error| Answer::new(502, error.to_string())),
            Some(Act::Answer(answer)) => {
                // Who breaks off does not hear the answer either.
                let _ = request.body();
                answer
            }
            Some(Act::Spoil(manner)) => forward(good, request).unwrap().sent(manner),
            Some(Act::Garble) => {
                let mut answer = forward(good, request).unwrap();
                answer.body.iter_mut().for_each(|byte| *byte ^= 0x55);
                answer
            }
            Some(Act::ResetInUpload(count)) => {
                let _ = request.some_of_the_body(count);
                Answer::default().sent(Manner::Reset)
            }
        });
        Self { http, done }
    }

    /// `127.0.0.1:` and the port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.http.address()
    }

    /// How many times each rule did what it says, in their order.
    #[must_use]
    pub fn done(&self) -> Vec<usize> {
        self.done.lock().unwrap().iter().map(|(_, _, done)| *done).collect()
    }
}

fn act(rules: &Mutex<Vec<(Rule, usize, usize)>>, request: &Request<'_>) -> Option<Act> {
    let target = format!("{}?{}", request.path, request.query);
    let mut rules = rules.lock().unwrap();
    for (rule, seen, done) in &mut *rules {
        if rule.method.is_some_and(|method| method != request.method) || !target.contains(&rule.path) {
            continue;
        }
        *seen += 1;
        if *seen > rule.after && *done < rule.times {
            *done += 1;
            return Some(rule.act.clone());
        }
    }
    None
}

/// Asks the good server. HTTP/1.0, so that an answer ends where the connection ends.
fn forward(good: SocketAddr, request: &mut Request<'_>) -> io::Result<Answer> {
    let body = request.body()?;
    let question = if request.query.is_empty() { "" } else { "?" };
    let mut head = format!("{} {}{question}{} HTTP/1.0\r\n", request.method, request.path, request.query);
    for (name, value) in request.headers.iter().filter(|(name, _)| name != "connection") {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut connection = TcpStream::connect(good)?;
    connection.write_all(&[head.as_bytes(), &body].concat())?;
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let mut answer = Answer::new(status.ok_or(io::ErrorKind::InvalidData)?, &bytes[end + 4..]);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        // The length of what follows is told anyway; that of an answer to HEAD only the good server knows.
        if name != "connection" && (name != "content-length" || request.method == "HEAD") {
            answer = answer.with(&name, value);
        }
    }
    Ok(answer)
}
