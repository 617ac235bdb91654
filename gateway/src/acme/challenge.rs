//! Pending challenges: what an authority that knocks is answered.
//!
//! # Invariants
//!
//! - Only what is pending is answered. Any other request under `/.well-known/acme-challenge/` is routed as usual, so
//!   that an application's own ACME client works behind this gateway.
//! - A challenge is answered by every gateway that shares the store, whoever ordered.
//! - What strangers ask for costs a bounded number of look-ups in the store at once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use prometheus::IntCounter;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName};
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use tidegate_model::desired::AcmeChallengeKind;
use tokio::sync::Semaphore;

use super::store::Store;
use crate::tls::{provider, self_signed};

/// Where authorities ask for HTTP-01 (RFC 8555 §8.3).
const PREFIX: &str = "/.well-known/acme-challenge/";

/// The application protocol by which authorities ask for TLS-ALPN-01 (RFC 8737 §6.2).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// Look-ups in the store at once, for all strangers together. Beyond it a request is answered as if nothing were pending,
/// and counted; authorities ask again.
const LOOKUPS: usize = 16;

/// A look-up in a store that hangs isn't waited for.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(3);

/// Characters of a token. Authorities use 43.
const TOKEN: usize = 256;

/// The token that a path asks for, if it is one (RFC 8555 §8.3: base64url characters only).
fn token(path: &str) -> Option<&str> {
    let token = path.strip_prefix(PREFIX)?;
    let plain = token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    (plain && (1..=TOKEN).contains(&token.len())).then_some(token)
}

/// Pending challenges. Clones see the same.
#[derive(Clone)]
pub struct Challenges(Arc<Inner>);

struct Inner {
    /// Our own.
    pending: Mutex<HashMap<(AcmeChallengeKind, String), String>>,
    /// Where those of other gateways are; `None` while nothing is ordered.
    store: ArcSwapOption<Store>,
    lookups: Arc<Semaphore>,
    refused: IntCounter,
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenges")
    }
}

impl Challenges {
    /// None are pending. `refused` counts look-ups beyond the bound.
    pub fn new(refused: IntCounter) -> Self {
        Self(Arc::new(Inner {
            pending: Mutex::default(),
            store: ArcSwapOption::empty(),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            refused,
        }))
    }

    /// Says where the challenges of other gateways are.
    pub fn look_in(&self, store: Option<Store>) {
        self.0.store.store(store.map(Arc::new));
    }

    /// The answer to HTTP-01, if a request for `path` is an authority's that asks for a pending token.
    pub async fn knock(&self, path: &str) -> Option<String> {
        self.find(AcmeChallengeKind::Http01, token(path)?).await
    }

    /// TLS settings that show the challenge certificate of `name` and nothing else, if TLS-ALPN-01 is pending for it.
    pub async fn tls(&self, name: &str) -> Option<Arc<ServerConfig>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        // It becomes a file's name.
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
        if !plain || name.is_empty() || name.len() > 253 || name.starts_with('.') {
            return None;
        }
        let authorization = self.find(AcmeChallengeKind::TlsAlpn01, &name).await?;
        challenge_config(&name, &authorization).ok()
    }

    /// Makes a challenge pending, for this gateway.
    pub(crate) fn pose(&self, kind: AcmeChallengeKind, key: &str, authorization: &str) {
        self.pending().insert((kind, key.to_owned()), authorization.to_owned());
    }

    /// Takes it back.
    pub(crate) fn withdraw(&self, kind: AcmeChallengeKind, key: &str) {
        self.pending().remove(&(kind, key.to_owned()));
    }

    async fn find(&self, kind: AcmeChallengeKind, key: &str) -> Option<String> {
        if let Some(ours) = self.pending().get(&(kind, key.to_owned())) {
            return Some(ours.clone());
        }
        let store = self.0.store.load_full()?;
        let Ok(place) = Arc::clone(&self.0.lookups).try_acquire_owned() else {
            self.0.refused.inc();
            return None;
        };
        let key = key.to_owned();
        let look = tokio::task::spawn_blocking(move || {
            let found = store.posed(kind, &key);
            drop(place); // Held by the look-up itself, so that those that hang are counted.
            found
        });
        tokio::time::timeout(LOOKUP_PATIENCE, look).await.ok()?.ok()?
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<(AcmeChallengeKind, String), String>> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// RFC 8737 §3: a self-signed certificate for exactly this name, with the authorization's digest in a critical
/// extension, shown to who asks for `acme-tls/1`.
fn challenge_config(name: &str, authorization: &str) -> Result<Arc<ServerConfig>, rcgen::Error> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&Sha256::digest(authorization))];
    let key = Arc::new(self_signed(params)?);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .expect("invariant: the provider has cipher suites for these versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(key)));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;

    fn challenges() -> (tempfile::TempDir, Store, Challenges) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path(), "https://ca.test/dir");
        store.make().unwrap();
        let challenges = Challenges::new(IntCounter::new("refused", "Refused.").unwrap());
        challenges.look_in(Some(store.clone()));
        (folder, store, challenges)
    }

    #[test]
    fn only_a_token_of_base64url_characters_is_one() {
        assert_eq!(token("/.well-known/acme-challenge/aZ0-_"), Some("aZ0-_"));
        for path in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/../../etc/passwd",
            "/.well-known/acme-challenge/a%2fb",
            "/.well-known/acme-challenge/a/b",
            "/.well-known/acme-challenge/a.b",
            "/other/.well-known/acme-challenge/abc",
        ] {
            assert_eq!(token(path), None, "{path}");
        }
        assert_eq!(token(&format!("{PREFIX}{}", "a".repeat(TOKEN + 1))), None);
    }

    #[tokio::test]
    async fn a_challenge_is_answered_while_it_is_pending_here_or_at_another_gateway() {
        let (_folder, store, challenges) = challenges();

        challenges.pose(AcmeChallengeKind::Http01, "ours", "ours.thumb");
        store.pose(AcmeChallengeKind::Http01, "theirs", "theirs.thumb").unwrap();

        assert_eq!(challenges.knock("/.well-known/acme-challenge/ours").await.as_deref(), Some("ours.thumb"));
        assert_eq!(challenges.knock("/.well-known/acme-challenge/theirs").await.as_deref(), Some("theirs.thumb"));
        assert_eq!(challenges.knock("/.well-known/acme-challenge/unknown").await, None);
        challenges.withdraw(AcmeChallengeKind::Http01, "ours");
        assert_eq!(challenges.knock("/.well-known/acme-challenge/ours").await, None);
        challenges.look_in(None);
        assert_eq!(challenges.knock("/.well-known/acme-challenge/theirs").await, None, "nothing is ordered any more");
    }

    #[tokio::test]
    async fn the_challenge_certificate_is_what_rfc_8737_asks_for() {
        let (_folder, _store, challenges) = challenges();
        challenges.pose(AcmeChallengeKind::TlsAlpn01, "shop.test", "token.thumb");

        let config = challenges.tls("Shop.Test").await.unwrap();

        assert_eq!(config.alpn_protocols, [ACME_TLS]);
        assert!(challenges.tls("other.test").await.is_none());
        assert!(challenges.tls("../../shop.test").await.is_none());
        let mut params = CertificateParams::new(vec!["shop.test".to_owned()]).unwrap();
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(&Sha256::digest("token.thumb"))];
        let key = self_signed(params).unwrap();
        let (_, leaf) = X509Certificate::from_der(&key.cert[0]).unwrap();
        let extension = leaf.extensions().iter().find(|e| e.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(extension.critical);
        assert!(extension.value.ends_with(&Sha256::digest("token.thumb")));
    }
}
