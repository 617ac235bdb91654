//! A service that asks the next one through the gateway, and passes on what it was told of a load test.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

use super::client;

/// What a service in a chain does: hands the request's body, its baggage and its mark to the next one.
pub struct Relay {
    address: SocketAddr,
    /// Baggage of each request that came.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    /// A service that asks `http://HOST/…` of whatever `gateway` names when a request comes.
    pub async fn start(next: &str, gateway: Arc<Mutex<Option<SocketAddr>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (next, kept) = (next.to_owned(), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (next, gateway, kept) = (next.clone(), Arc::clone(&gateway), Arc::clone(&kept));
                let service = service_fn(move |request| {
                    let gateway = gateway.lock().unwrap().expect("the gateway runs");
                    pass_on(request, next.clone(), gateway, Arc::clone(&kept))
                });
                tokio::spawn(async move {
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, seen }
    }

    /// Baggage of each request that came so far; empty where it had none.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl std::fmt::Display for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}

async fn pass_on(
    request: Request<Incoming>,
    next: String,
    gateway: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let text =
        |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (baggage, mark) = (text("baggage"), text("x-pt"));
    seen.lock().unwrap().push(baggage.clone());
    let told = [("baggage", baggage.as_str()), ("x-pt", mark.as_str())];
    let told: Vec<_> = told.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let answer = client::send(gateway, parts.method.as_str(), &format!("http://{next}{path}"), &told, body).await;
    let answer = answer.map_err(std::io::Error::other)?;
    Ok(Response::builder().status(answer.status).body(Full::new(answer.body)).unwrap())
}
