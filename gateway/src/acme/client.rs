//! How the authority is asked: HTTPS with bounds on time and size, and an ear for `Retry-After`.

use std::fs;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::failure::Failure;
use crate::tls::provider;

/// A request and its answer take no longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of an answer. A chain of certificates has a few thousand.
const MAX_ANSWER: usize = 1 << 20;

/// How long the authority last asked to wait. Shared with the client that hears it.
#[derive(Clone, Debug, Default)]
pub struct Wait(Arc<Mutex<Option<SystemTime>>>);

impl Wait {
    /// What was asked for since the last call, from now.
    pub fn take(&self) -> Option<Duration> {
        let until = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        until.duration_since(SystemTime::now()).ok()
    }

    fn hear(&self, headers: &HeaderMap) {
        let Some(text) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) else { return };
        // RFC 9110 §10.2.3: seconds or a date. A date would need a parser; authorities send seconds with errors, and
        // without one the pauses of `plan` hold.
        let Ok(seconds) = text.trim().parse::<u32>() else { return };
        let until = SystemTime::now() + Duration::from_secs(seconds.into());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

/// An HTTPS client for one authority.
pub struct AcmeHttp {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    wait: Wait,
}

impl AcmeHttp {
    /// Trusts the authorities in `ca`, or the system's.
    ///
    /// # Errors
    ///
    /// `ca` can't be read, or nobody is left to trust.
    pub fn new(ca: Option<&Path>, wait: Wait) -> Result<Self, Failure> {
        let roots = match ca {
            Some(file) => authorities(file)
                .map_err(|err| Failure::ours(format!("acme.ca can't be read: {err}"), "it must be PEM"))?,
            None => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                roots
            }
        };
        if roots.is_empty() {
            let help = "install the system's authorities (ca-certificates), or name a file by acme.ca";
            return Err(Failure::ours("there is no authority to trust", help));
        }
        let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_safe_default_protocol_versions()
            .map_err(|err| Failure::ours(err.to_string(), "this is a bug in tidegate"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), wait })
    }
}

/// The authorities in a PEM file.
///
/// # Errors
///
/// What is wrong with it.
pub fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let pem = fs::read(file).map_err(|err| err.to_string())?;
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&pem) {
        let cert = cert.map_err(|err| err.to_string())?;
        roots.add(cert).map_err(|err| err.to_string())?;
    }
    if roots.is_empty() { Err("it holds no certificate".into()) } else { Ok(roots) }
}

impl HttpClient for AcmeHttp {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (answer, wait) = (self.client.request(request), self.wait.clone());
        let exchange = async move {
            let (head, body) = answer.await.map_err(other)?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(Error::Other)?.to_bytes();
            if head.status.is_client_error() || head.status.is_server_error() {
                wait.hear(&head.headers);
                let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
                if !kind.contains("json") {
                    // A proxy in between, or no ACME server at all: there is no problem document to read.
                    return Err(other(std::io::Error::other(format!("it answered {}", head.status))));
                }
            }
            Ok(BytesResponse::from(Response::from_parts(head, Full::new(body))))
        };
        Box::pin(async move {
            let late = |_| other(std::io::Error::other(format!("no answer within {} s", PATIENCE.as_secs())));
            tokio::time::timeout(PATIENCE, exchange).await.map_err(late)?
        })
    }
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Other(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_authority_asks_to_wait_is_heard_once() {
        let wait = Wait::default();
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "3600".parse().unwrap());

        wait.hear(&headers);

        assert!(wait.take().is_some_and(|left| left > Duration::from_secs(3_590)));
        assert_eq!(wait.take(), None);
    }

    #[test]
    fn an_authority_that_cannot_be_read_is_named() {
        let failure = AcmeHttp::new(Some(Path::new("/nowhere/ca.pem")), Wait::default()).err().unwrap();

        assert!(failure.what.contains("acme.ca"), "{failure:?}");
    }
}
