//! Clients: hyper on any stream, bare bytes on a socket, and curl.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::PATIENCE;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Version.
    pub version: Version,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailers, where there were any.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// A header's first value; empty when it isn't there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A kept connection that speaks one protocol.
pub enum Client {
    /// HTTP/1.1.
    H1(http1::SendRequest<Full<Bytes>>),
    /// HTTP/2.
    H2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    /// HTTP/1.1 over plain TCP.
    pub async fn h1(address: SocketAddr) -> anyhow::Result<Self> {
        Self::h1_on(TcpStream::connect(address).await?).await
    }

    /// HTTP/2 by prior knowledge over plain TCP.
    pub async fn h2c(address: SocketAddr) -> anyhow::Result<Self> {
        Self::h2_on(TcpStream::connect(address).await?).await
    }

    /// HTTP over TLS, in whichever version ALPN chose.
    pub async fn tls(address: SocketAddr, host: &str, config: Arc<ClientConfig>) -> anyhow::Result<Self> {
        let stream = tls(address, host, config).await?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Self::h2_on(stream).await
        } else {
            Self::h1_on(stream).await
        }
    }

    /// HTTP/1.1 on a stream.
    pub async fn h1_on(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> anyhow::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self::H1(sender))
    }

    /// HTTP/2 on a stream.
    pub async fn h2_on(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> anyhow::Result<Self> {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self::H2(sender))
    }

    /// Whether the other side closed the connection, or is about to.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::H1(sender) => sender.is_closed(),
            Self::H2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request for `http://HOST/PATH` (the scheme doesn't matter), and reads the answer to its end.
    pub async fn send(&mut self, mut request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let exchange = async {
            let response = match self {
                Self::H1(sender) => {
                    sender.ready().await?;
                    let authority = request.uri().authority().context("a request needs a host")?.to_string();
                    request.headers_mut().entry("host").or_insert(authority.parse()?);
                    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
                    *request.uri_mut() = path;
                    sender.send_request(request).await?
                }
                Self::H2(sender) => {
                    sender.ready().await?;
                    *request.version_mut() = Version::HTTP_2;
                    sender.send_request(request).await?
                }
            };
            let (parts, body) = response.into_parts();
            let body = body.collect().await.context("the answer broke off")?;
            let trailers = body.trailers().cloned();
            anyhow::Ok(Answer {
                status: parts.status.as_u16(),
                version: parts.version,
                headers: parts.headers,
                body: body.to_bytes(),
                trailers,
            })
        };
        tokio::time::timeout(PATIENCE, exchange).await.context("no answer in time")?
    }

    /// GET of a URL.
    pub async fn get(&mut self, url: &str) -> anyhow::Result<Answer> {
        self.send(request("GET", url, &[], "")).await
    }
}

/// A request. `url` is absolute.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).expect("tests write legal requests")
}

/// One GET over a fresh plain connection. `target` is a path, or an absolute URL whose host is sent.
pub async fn get(address: SocketAddr, target: &str) -> anyhow::Result<Answer> {
    send(address, "GET", target, &[], "").await
}

/// One request over a fresh plain connection.
pub async fn send(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> anyhow::Result<Answer> {
    let url = if target.starts_with('/') { format!("http://{address}{target}") } else { target.to_owned() };
    Client::h1(address).await?.send(request(method, &url, headers, body)).await
}

/// A TLS connection.
pub async fn tls(address: SocketAddr, host: &str, config: Arc<ClientConfig>) -> anyhow::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    Ok(TlsConnector::from(config).connect(ServerName::try_from(host.to_owned())?, stream).await?)
}

/// Writes `bytes` to a fresh connection, and reads what comes back until the other side closes.
///
/// # Errors
///
/// When the other side neither closes nor says anything more in time; what it said is in the message.
pub async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // A server that closed early is no failure here: what it said before counts.
    let _ = stream.write_all(bytes.as_ref()).await;
    let mut said = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match tokio::time::timeout(Duration::from_secs(15), stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return Ok(String::from_utf8_lossy(&said).into_owned()),
            Ok(Ok(n)) => said.extend_from_slice(&buffer[..n]),
            Err(_) => bail!("the connection stays open; it said: {}", String::from_utf8_lossy(&said)),
        }
    }
}

/// Runs curl, and returns what it printed.
///
/// # Panics
///
/// With its words, when it fails.
pub async fn curl(arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    tokio::task::spawn_blocking(move || {
        let output =
            Command::new("curl").args(["-sS", "--max-time", "20"]).args(&arguments).output().expect("curl runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "curl {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
    .await
    .unwrap()
}
