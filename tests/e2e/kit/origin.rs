//! Origins in the test's own process: they say who they are, write down what they saw, and misbehave when told.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// What an origin does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Answers 200 with its name and the request's path, or with the request's own body where it has one.
    Ok,
    /// Answers this status.
    Status(u16),
    /// Answers 200 with these headers and this body.
    Reply(Vec<(&'static str, &'static str)>, &'static str),
    /// Waits, then answers as `Ok`.
    Slow(Duration),
    /// Breaks the connection off as soon as bytes arrive.
    Reset,
    /// Answers with bytes that are no HTTP.
    Garbage,
    /// Sends these bytes, whatever was asked, and closes.
    Bytes(&'static [u8]),
}

/// One request as an origin saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// Host header, or authority.
    pub host: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Seen {
    /// A header's values, joined by a comma; empty when it isn't there.
    pub fn header(&self, name: &str) -> String {
        let values: Vec<_> = self.headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        values.join(", ")
    }
}

/// An origin. Gone when dropped.
pub struct Origin {
    shared: Arc<Shared>,
    address: String,
    stop: watch::Sender<bool>,
}

struct Shared {
    name: String,
    mood: Mutex<Mood>,
    seen: Mutex<Vec<Seen>>,
    hits: AtomicU64,
    connections: AtomicU64,
    /// Beyond this many, requests are counted but not written down.
    keep: usize,
}

impl Origin {
    /// An origin called `name` on a free port; speaks HTTP/1.1 and h2c.
    pub async fn start(name: &str) -> Self {
        Self::bind(name, "127.0.0.1:0".parse().unwrap(), None).await
    }

    /// The same behind TLS.
    pub async fn start_tls(name: &str, acceptor: TlsAcceptor) -> Self {
        Self::bind(name, "127.0.0.1:0".parse().unwrap(), Some(acceptor)).await
    }

    /// The same at a given address.
    pub async fn bind(name: &str, address: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (origin, mut stopped) = Self::new(name, address);
        let shared = Arc::clone(&origin.shared);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        stream.set_nodelay(true).unwrap();
                        let (shared, tls, stopped) = (Arc::clone(&shared), tls.clone(), stopped.clone());
                        tokio::spawn(async move {
                            match tls {
                                Some(tls) => {
                                    if let Ok(stream) = tls.accept(stream).await {
                                        shared.serve(stream, stopped).await;
                                    }
                                }
                                None => shared.meet(stream, stopped).await,
                            }
                        });
                    }
                    _ = stopped.changed() => return,
                }
            }
        });
        origin
    }

    /// An origin on a unix socket.
    pub fn start_unix(name: &str, path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (origin, mut stopped) = Self::new(name, format!("unix:{}", path.display()));
        let shared = Arc::clone(&origin.shared);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        let (shared, stopped) = (Arc::clone(&shared), stopped.clone());
                        tokio::spawn(async move { shared.serve(stream, stopped).await });
                    }
                    _ = stopped.changed() => return,
                }
            }
        });
        origin
    }

    fn new(name: &str, address: String) -> (Self, watch::Receiver<bool>) {
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            mood: Mutex::new(Mood::Ok),
            seen: Mutex::default(),
            hits: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            keep: 10_000,
        });
        (Self { shared, address, stop }, stopped)
    }

    /// Where it is, as a configuration writes it.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Changes what it does from now on.
    pub fn set(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    /// Requests so far, probes (`/healthz`) left out.
    pub fn hits(&self) -> u64 {
        self.shared.hits.load(Relaxed)
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Relaxed)
    }

    /// What it saw so far, probes left out.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The last request it saw.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("the origin saw a request")
    }

    /// Stops listening and breaks every connection off, as a killed process does. Returns where it was.
    pub fn kill(self) -> String {
        self.address.clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)
    }
}

impl Shared {
    /// Does to a plain connection what can't be said in HTTP, or serves it.
    async fn meet(self: Arc<Self>, mut stream: TcpStream, stopped: watch::Receiver<bool>) {
        let mood = self.mood.lock().unwrap().clone();
        let bytes: &[u8] = match mood {
            Mood::Reset => {
                // Unread bytes in the socket turn the close into a reset.
                let _ = stream.readable().await;
                self.hits.fetch_add(1, Relaxed);
                return;
            }
            Mood::Garbage => b"\x00\x01this is no HTTP\r\n\r\n",
            Mood::Bytes(bytes) => bytes,
            _ => return self.serve(stream, stopped).await,
        };
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await;
        self.hits.fetch_add(1, Relaxed);
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
    }

    async fn serve(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        mut stopped: watch::Receiver<bool>,
    ) {
        self.connections.fetch_add(1, Relaxed);
        let server = auto::Builder::new(TokioExecutor::new());
        let service = service_fn(move |request| Arc::clone(&self).answer(request));
        tokio::select! {
            _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service) => {}
            _ = stopped.changed() => {}
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let mut mood = self.mood.lock().unwrap().clone();
        if path == "/healthz" {
            // Probes see dead and failing origins, but a slow page doesn't make the probe slow.
            if matches!(mood, Mood::Slow(_) | Mood::Reply(..)) {
                mood = Mood::Ok;
            }
        } else {
            self.hits.fetch_add(1, Relaxed);
            let host = parts.headers.get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
            let host = host.or_else(|| parts.uri.authority().map(ToString::to_string)).unwrap_or_default();
            let mut seen = self.seen.lock().unwrap();
            if seen.len() < self.keep {
                seen.push(Seen {
                    method: parts.method.to_string(),
                    path: path.clone(),
                    protocol: format!("{:?}", parts.version),
                    host,
                    headers: parts.headers.clone(),
                    body: body.clone(),
                });
            }
        }
        let mut response = Response::builder().header("x-version", &self.name);
        match mood {
            Mood::Status(status) => {
                response = response.status(status);
                Ok(response.body(Full::from(format!("{status} from {}\n", self.name))).unwrap())
            }
            Mood::Reply(headers, body) => {
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                Ok(response.body(Full::from(body)).unwrap())
            }
            Mood::Reset | Mood::Garbage | Mood::Bytes(_) => Err(std::io::Error::other("told to break off")),
            Mood::Ok | Mood::Slow(_) => {
                if let Mood::Slow(wait) = mood {
                    tokio::time::sleep(wait).await;
                }
                let body = if body.is_empty() { Bytes::from(format!("{} {path}\n", self.name)) } else { body };
                Ok(response.body(Full::new(body)).unwrap())
            }
        }
    }
}
