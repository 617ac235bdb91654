//! An endpoint that writes down exactly what it was sent. It reads HTTP/1 plainly: CRLF, one framing, no mercy.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long a proxy gets to end what it has begun to send, once its client is gone.
const AFTERMATH: Duration = Duration::from_millis(1_500);

/// See the module. Gone when dropped.
pub struct Recorder {
    shared: Arc<Shared>,
    /// Where it listens.
    pub address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whole requests, and what was no request, in order.
    seen: Vec<String>,
    /// Requests whose end hasn't come.
    begun: usize,
    /// What is answered to `/case`, and whether the connection ends then.
    script: Option<(Vec<u8>, bool)>,
}

impl Recorder {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(Arc::clone(&shared).serve(stream));
                }
            }
        });
        Self { shared, address, accepting }
    }

    /// Answers these bytes to requests for `/case` from now on, and closes then if told to.
    pub fn script(&self, answer: Option<(Vec<u8>, bool)>) {
        self.shared.state.lock().unwrap().script = answer;
    }

    /// What came since the last call, when no request is half done any more.
    pub async fn take(&self) -> Vec<String> {
        let deadline = Instant::now() + AFTERMATH;
        while self.shared.state.lock().unwrap().begun > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::mem::take(&mut self.shared.state.lock().unwrap().seen)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut wire = Vec::new();
        loop {
            match next(&mut stream, &mut wire, &self).await {
                Read::Request(request) => {
                    let (answer, close) = self.answer_to(&request);
                    self.note(request);
                    if stream.write_all(&answer).await.is_err() || close {
                        return;
                    }
                }
                Read::Broken(what) => return self.note(what),
                Read::End => return,
            }
        }
    }

    fn note(&self, what: String) {
        self.state.lock().unwrap().seen.push(what);
    }

    fn answer_to(&self, request: &str) -> (Vec<u8>, bool) {
        let target = request.split(' ').nth(1).unwrap_or_default();
        if target == "/case"
            && let Some(script) = self.state.lock().unwrap().script.clone()
        {
            return script;
        }
        if request.starts_with("HEAD ") {
            return (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n".to_vec(), false);
        }
        let body = format!("saw {target}");
        (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes(), false)
    }
}

enum Read {
    Request(String),
    Broken(String),
    End,
}

/// Counts a request as begun as long as it lives.
struct Begun<'a>(&'a Shared);

impl<'a> Begun<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.state.lock().unwrap().begun += 1;
        Self(shared)
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().begun -= 1;
    }
}

async fn next(stream: &mut TcpStream, wire: &mut Vec<u8>, shared: &Shared) -> Read {
    if wire.is_empty() && !fill(stream, wire).await {
        return Read::End;
    }
    let _begun = Begun::new(shared);
    let end = loop {
        if let Some(at) = wire.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if !fill(stream, wire).await {
            return Read::Broken(format!("half a head \"{}\"", wire.escape_ascii()));
        }
    };
    let head: Vec<u8> = wire.drain(..end).collect();
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.split("\r\n");
    let request_line = lines.next().unwrap_or_default();
    let mut words = request_line.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Read::Broken(format!("no request \"{}\"", request_line.escape_debug()));
    };
    let value = |name: &str| -> Vec<&str> {
        let named = |line: &&str| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        head.split("\r\n").skip(1).filter(named).map(|line| line.split_once(':').unwrap().1.trim()).collect()
    };
    let mut told = format!("{method} {target}");
    for host in value("host") {
        if host != "a" {
            told.push_str(&format!(" host={host}"));
        }
    }
    // What a case smuggles in shows here: headers whose names begin with `x-case`, and doubtful ones.
    for line in head.split("\r\n").skip(1).filter(|line| !line.is_empty()) {
        let (name, text) = line.split_once(':').unwrap_or((line, ""));
        let name = name.to_ascii_lowercase();
        let doubtful = ["x-case", "x_", "content_", "transfer_", "http2-settings", "upgrade", "expect", "cookie"];
        if doubtful.iter().any(|start| name.starts_with(start)) || name.starts_with([' ', '\t']) || name.ends_with(' ')
        {
            told.push_str(&format!(" [{name}: {}]", text.trim().escape_debug()));
        }
    }
    let (lengths, codings) = (value("content-length"), value("transfer-encoding"));
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => return Read::Request(told),
        ([length], []) => {
            let Ok(length) = length.parse::<usize>() else { return Read::Broken(format!("{told} length {length}")) };
            while wire.len() < length {
                if !fill(stream, wire).await {
                    return Read::Broken(format!("{told} cut off"));
                }
            }
            let body: Vec<u8> = wire.drain(..length).collect();
            if !body.is_empty() {
                told.push_str(&format!(" \"{}\"", body.escape_ascii()));
            }
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => match chunked(stream, wire).await {
            Some(body) => told.push_str(&format!(" \"{}\"", body.escape_ascii())),
            None => return Read::Broken(format!("{told} cut off")),
        },
        _ => {
            // Two framings reached an endpoint: that is what smuggling is.
            let all: Vec<&str> = lengths.iter().chain(&codings).copied().collect();
            return Read::Broken(format!("{told} AMBIGUOUS ({})", all.join(" and ")));
        }
    }
    Read::Request(told)
}

async fn chunked(stream: &mut TcpStream, wire: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = line(stream, wire).await?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            break;
        }
        while wire.len() < size + 2 {
            if !fill(stream, wire).await {
                return None;
            }
        }
        body.extend(wire.drain(..size));
        wire.drain(..2);
    }
    while !line(stream, wire).await?.is_empty() {}
    Some(body)
}

async fn line(stream: &mut TcpStream, wire: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(at) = wire.windows(2).position(|window| window == b"\r\n") {
            let line: Vec<u8> = wire.drain(..at + 2).collect();
            return Some(String::from_utf8_lossy(&line[..at]).into_owned());
        }
        if !fill(stream, wire).await {
            return None;
        }
    }
}

async fn fill(stream: &mut TcpStream, wire: &mut Vec<u8>) -> bool {
    matches!(stream.read_buf(wire).await, Ok(1..))
}
