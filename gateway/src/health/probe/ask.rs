//! One probe: connects, asks, and says what came of it.
//!
//! Each probe opens its own connection, so that it also tells whether new
//! connections are still accepted. Nothing it starts outlives it.

use std::error::Error;
use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tidegate_model::desired::{ProbeKind, UpstreamProtocol};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::endpoint::Target;

/// Bytes of an answer's body that are read. Beyond it the answer counts as complete and the connection is closed.
const MAX_BODY: usize = 64 << 10;

const USER_AGENT: &str = concat!("tidegate-probe/", env!("CARGO_PKG_VERSION"));

/// What is asked, and how.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub target: Target,
    pub kind: ProbeKind,
    pub protocol: UpstreamProtocol,
    pub tls: Option<Tls>,
    /// For the whole probe.
    pub timeout: Duration,
}

/// TLS to an endpoint. `config` already offers the right protocols (ALPN).
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub config: Arc<rustls::ClientConfig>,
    /// The name that is sent and verified.
    pub name: ServerName<'static>,
}

#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("could not connect")]
    Connect(#[source] io::Error),
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("the probe's path or host can't be sent")]
    Request(#[source] http::Error),
    #[error("the exchange broke off")]
    Exchange(#[source] hyper::Error),
    #[error("answered {0}")]
    Status(u16),
}

/// Asks, and returns what was answered, or else what went wrong, in words.
pub(super) async fn ask(question: &Question) -> Result<String, String> {
    match tokio::time::timeout(question.timeout, attempt(question)).await {
        Ok(answered) => answered.map_err(|wrong| chain(&wrong)),
        Err(_) => Err(format!("no answer within {:?}", question.timeout)),
    }
}

async fn attempt(question: &Question) -> Result<String, Wrong> {
    let stream = connect(&question.target).await.map_err(Wrong::Connect)?;
    let ProbeKind::Http { path, host, expect } = &question.kind else { return Ok("connected".to_owned()) };

    let (stream, offered_h2) = match &question.tls {
        Some(tls) => handshake(tls, stream).await.map_err(Wrong::Tls)?,
        None => (stream, false),
    };
    let h2 = match question.protocol {
        UpstreamProtocol::Http1 => false,
        UpstreamProtocol::Http2 => true,
        UpstreamProtocol::Auto => offered_h2,
    };
    let host = host.clone().unwrap_or_else(|| authority(&question.target));
    let request = if h2 {
        let scheme = if question.tls.is_some() { "https" } else { "http" };
        Request::get(format!("{scheme}://{host}{path}"))
    } else {
        Request::get(path).header(header::HOST, host).header(header::CONNECTION, "close")
    };
    let request = request
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .body(Empty::new())
        .map_err(Wrong::Request)?;

    let status = exchange(stream, h2, request).await.map_err(Wrong::Exchange)?;
    if expect.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
        Ok(format!("answered {status}"))
    } else {
        Err(Wrong::Status(status))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn connect(target: &Target) -> io::Result<Box<dyn Stream>> {
    Ok(match target {
        Target::Tcp(addr) => Box::new(TcpStream::connect(addr).await?),
        Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

/// Returns the stream, and whether the other side chose HTTP/2.
async fn handshake(tls: &Tls, stream: Box<dyn Stream>) -> io::Result<(Box<dyn Stream>, bool)> {
    let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(tls.name.clone(), stream).await?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Box::new(stream), h2))
}

/// Sends the request and reads the answer, as far as we care. Returns its status.
async fn exchange(stream: Box<dyn Stream>, h2: bool, request: Request<Empty<Bytes>>) -> hyper::Result<u16> {
    let tasks = Tasks::default();
    let stream = TokioIo::new(stream);
    let answer = if h2 {
        let (mut sender, connection) = http2::handshake(tasks.executor(), stream).await?;
        tasks.spawn(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = http1::handshake(stream).await?;
        tasks.spawn(connection);
        sender.send_request(request).await?
    };
    read(answer).await
}

async fn read(mut answer: Response<Incoming>) -> hyper::Result<u16> {
    let mut read = 0;
    while read < MAX_BODY
        && let Some(frame) = answer.frame().await
    {
        read += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(answer.status().as_u16())
}

/// What drives a connection: stops when this is dropped, whatever the other side does.
#[derive(Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    fn spawn<F>(&self, future: F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.executor().spawn(future);
    }

    fn executor(&self) -> Executor {
        Executor(Arc::downgrade(&self.0))
    }
}

/// Weak, because what it spawns holds it.
#[derive(Clone)]
struct Executor(Weak<Mutex<JoinSet<()>>>);

impl Executor {
    fn spawn<F>(&self, future: F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        if let Some(tasks) = self.0.upgrade() {
            // Whatever a connection ends with, the exchange on it has been told the same.
            let future = async { drop(future.await) };
            tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(future);
        }
    }
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.spawn(future);
    }
}

/// What the endpoint is called when the configuration doesn't say.
fn authority(target: &Target) -> String {
    match target {
        Target::Tcp(addr) => addr.to_string(),
        Target::Unix(_) => "localhost".to_owned(),
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}"); // Writing to a string can't fail.
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;

    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};
    use tokio::sync::oneshot;

    use super::*;

    /// Long enough that only a hang reaches it.
    const PATIENT: Duration = Duration::from_secs(20);
    /// For answers that never come.
    const IMPATIENT: Duration = Duration::from_millis(60);

    fn question(target: SocketAddr, timeout: Duration) -> Question {
        Question {
            target: Target::Tcp(target),
            kind: ProbeKind::Http { path: "/healthz?full=1".into(), host: None, expect: vec![(200, 399)] },
            protocol: UpstreamProtocol::Http1,
            tls: None,
            timeout,
        }
    }

    /// Answers the first connection with `answer`, keeps it open, and reports all that was sent once it is closed.
    async fn answering(answer: impl Into<Vec<u8>>) -> (SocketAddr, oneshot::Receiver<String>) {
        let answer = answer.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = vec![0; 4_096];
            let mut length = stream.read(&mut seen).await.unwrap();
            let _ = stream.write_all(&answer).await;
            while let Ok(more @ 1..) = stream.read(&mut seen[length..]).await {
                length += more;
            }
            let _ = tell.send(String::from_utf8_lossy(&seen[..length]).into_owned());
        });
        (addr, told)
    }

    async fn asked(answer: impl Into<Vec<u8>>, timeout: Duration) -> Result<String, String> {
        let (addr, _) = answering(answer).await;
        ask(&question(addr, timeout)).await
    }

    #[tokio::test]
    async fn a_good_status_is_good_and_the_request_says_who_asks() {
        let (addr, sent) = answering("HTTP/1.1 204 No Content\r\n\r\n").await;

        let said = ask(&question(addr, PATIENT)).await;

        assert_eq!(said, Ok("answered 204".into()));
        let sent =
            sent.await.unwrap().replace(&addr.to_string(), "ADDRESS").replace(env!("CARGO_PKG_VERSION"), "VERSION");
        insta::assert_snapshot!(sent.replace("\r\n", "\n").trim_end(), @r"
        GET /healthz?full=1 HTTP/1.1
        host: ADDRESS
        connection: close
        user-agent: tidegate-probe/VERSION
        accept: */*
        ");
    }

    #[tokio::test]
    async fn a_status_outside_the_expected_ranges_has_failed() {
        assert_eq!(asked("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", PATIENT).await, Err("answered 500".into()));
    }

    #[tokio::test]
    async fn a_closed_port_has_failed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);

        let said = ask(&question(addr, PATIENT)).await.unwrap_err();

        assert!(said.starts_with("could not connect: Connection refused"), "{said}");
    }

    #[tokio::test]
    async fn garbage_has_failed() {
        let said = asked("SSH-2.0-OpenSSH_9.2\r\n\r\n", PATIENT).await.unwrap_err();

        assert!(said.starts_with("the exchange broke off: "), "{said}");
    }

    #[tokio::test]
    async fn silence_has_failed_and_leaves_no_connection_behind() {
        let (addr, closed) = answering("").await;

        let said = ask(&question(addr, IMPATIENT)).await;

        assert_eq!(said, Err("no answer within 60ms".into()));
        closed.await.unwrap();
    }

    #[tokio::test]
    async fn silence_on_http2_leaves_no_connection_behind_either() {
        let (addr, closed) = answering("").await;

        let said = ask(&Question { protocol: UpstreamProtocol::Http2, ..question(addr, IMPATIENT) }).await;

        assert_eq!(said, Err("no answer within 60ms".into()));
        closed.await.unwrap();
    }

    #[tokio::test]
    async fn a_body_that_stalls_has_failed() {
        let said = asked("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", IMPATIENT).await;

        assert_eq!(said, Err("no answer within 60ms".into()));
    }

    #[tokio::test]
    async fn a_body_without_end_is_read_as_far_as_the_bound() {
        let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n".to_vec();
        answer.resize(answer.len() + MAX_BODY + 1_000, b'x');
        let (addr, closed) = answering(answer).await;

        let said = ask(&question(addr, PATIENT)).await;

        assert_eq!(said, Ok("answered 200".into()));
        closed.await.unwrap();
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_sent_is_said_so() {
        let (addr, _) = answering("").await;
        let kind = ProbeKind::Http { path: "/a b".into(), host: None, expect: vec![] };

        let said = ask(&Question { kind, ..question(addr, PATIENT) }).await.unwrap_err();

        assert!(said.starts_with("the probe's path or host can't be sent"), "{said}");
    }

    #[tokio::test]
    async fn a_tcp_probe_only_connects() {
        let (addr, sent) = answering("").await;

        let said = ask(&Question { kind: ProbeKind::Tcp, ..question(addr, PATIENT) }).await;

        assert_eq!(said, Ok("connected".into()));
        assert_eq!(sent.await.unwrap(), "");
    }

    #[tokio::test]
    async fn http2_is_asked_with_prior_knowledge_and_the_configured_host() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let stream = TokioIo::new(listener.accept().await.unwrap().0);
            let answer = service_fn(|request: Request<Incoming>| async move {
                let uri = request.uri();
                let right = uri.authority().unwrap() == "shop.internal" && uri.path() == "/healthz";
                Ok::<_, Infallible>(
                    Response::builder()
                        .status(if right { 200 } else { 404 })
                        .body(Full::new(Bytes::from("fine")))
                        .unwrap(),
                )
            });
            let _ =
                hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(stream, answer).await;
        });
        let kind =
            ProbeKind::Http { path: "/healthz".into(), host: Some("shop.internal".into()), expect: vec![(200, 200)] };

        let said = ask(&Question { kind, protocol: UpstreamProtocol::Http2, ..question(addr, PATIENT) }).await;

        assert_eq!(said, Ok("answered 200".into()));
    }

    #[tokio::test]
    async fn a_unix_socket_is_asked_as_localhost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = vec![0; 4_096];
            let length = stream.read(&mut seen).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&seen[..length]).into_owned()
        });
        let target = Target::Unix(path);

        let said = ask(&Question { target, ..question("127.0.0.1:0".parse().unwrap(), PATIENT) }).await;

        assert_eq!(said, Ok("answered 200".into()));
        assert!(server.await.unwrap().contains("host: localhost\r\n"));
    }

    #[tokio::test]
    async fn a_plain_server_fails_the_handshake_of_a_tls_probe() {
        let (addr, _) = answering("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let tls = Tls { config: Arc::new(config), name: ServerName::IpAddress(addr.ip().into()) };

        let said = ask(&Question { tls: Some(tls), ..question(addr, PATIENT) }).await.unwrap_err();

        assert!(said.starts_with("TLS handshake failed: "), "{said}");
    }

    /// A TLS server that offers `alpn` and answers with 200 over HTTP/2 and 201 over HTTP/1.1; and what trusts it.
    async fn answering_tls(alpn: &[&str]) -> (SocketAddr, Tls) {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let own = rcgen::generate_simple_self_signed(vec!["shop.internal".into()]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key.into())
            .unwrap();
        server.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
            let Ok(stream) = acceptor.accept(listener.accept().await.unwrap().0).await else { return };
            let answer = service_fn(|request: Request<Incoming>| async move {
                let status = if request.version() == http::Version::HTTP_2 { 200 } else { 201 };
                Ok::<_, Infallible>(Response::builder().status(status).body(Empty::<Bytes>::new()).unwrap())
            });
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let stream = TokioIo::new(stream);
            if h2 {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(stream, answer).await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, answer).await;
            }
        });
        (addr, Tls { config: Arc::new(client), name: "shop.internal".try_into().unwrap() })
    }

    #[tokio::test]
    async fn over_tls_a_service_with_either_protocol_is_asked_by_the_one_the_handshake_chose() {
        for (alpn, said) in
            [(&["h2", "http/1.1"][..], "answered 200"), (&["http/1.1"], "answered 201"), (&[], "answered 201")]
        {
            let (addr, tls) = answering_tls(alpn).await;

            let answer =
                ask(&Question { tls: Some(tls), protocol: UpstreamProtocol::Auto, ..question(addr, PATIENT) }).await;

            assert_eq!(answer, Ok(said.into()), "offering {alpn:?}");
        }
    }

    #[tokio::test]
    async fn a_certificate_for_another_name_has_failed() {
        let (addr, tls) = answering_tls(&[]).await;
        let tls = Tls { name: "other.internal".try_into().unwrap(), ..tls };

        let said = ask(&Question { tls: Some(tls), ..question(addr, PATIENT) }).await.unwrap_err();

        assert!(said.contains("not valid for name \"other.internal\""), "{said}");
    }
}
