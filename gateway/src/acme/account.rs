//! The account at an authority (RFC 8555 §7.3): one for each directory, shared by all gateways over the store.
//!
//! # Invariants
//!
//! - The key is in the store before the authority hears of it, so a gateway that dies opens no second account.

use std::time::Duration;

use instant_acme::{Account, Key};
use rcgen::KeyPair;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::client::AcmeHttp;
use super::failure::Failure;
use super::order::{Desk, blocking, store_failure};
use super::store::{Lock, Locking, Store};

/// How long another gateway may take to open the account.
const ACCOUNT_PATIENCE: Duration = Duration::from_secs(60);

/// How often a lock that is taken is tried again.
const LOCK_AGAIN: Duration = Duration::from_millis(200);

/// What `account.json` holds.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct AccountFacts {
    url: String,
    directory: String,
    contact: Vec<String>,
}

impl Desk {
    /// The account, opened at the first call. The same key gets the same account (RFC 8555 §7.3.1).
    pub(super) async fn account(&self) -> Result<Account, Failure> {
        let mut known = self.account.lock().await;
        if let Some(account) = &*known {
            return Ok(account.clone());
        }
        let _lock = self.account_lock().await?;
        let store = self.store.clone();
        let key = blocking(move || account_key(&store)).await?;
        let http = AcmeHttp::new(self.settings.ca.as_deref(), self.wait.clone())?;
        let directory = self.settings.directory.clone();
        let (account, _) = Account::builder_with_http(Box::new(http)).create_from_key(key, directory).await?;
        self.tell_contacts(&account).await?;
        info!(account = account.id(), directory = self.settings.directory, "account is open");
        *known = Some(account.clone());
        Ok(account)
    }

    /// Tells the authority whom to write to, where that has changed.
    async fn tell_contacts(&self, account: &Account) -> Result<(), Failure> {
        let store = self.store.clone();
        let before = blocking(move || store.account().map_err(store_failure)).await?;
        let before: AccountFacts = before.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        let facts = AccountFacts {
            url: account.id().to_owned(),
            directory: self.settings.directory.clone(),
            contact: self.settings.contact.clone(),
        };
        if facts == before {
            return Ok(());
        }
        let known = if before.url == facts.url { &before.contact[..] } else { &[] };
        if facts.contact != known {
            let contact: Vec<&str> = facts.contact.iter().map(String::as_str).collect();
            account.update_contacts(&contact).await?;
        }
        let json = serde_json::to_vec_pretty(&facts).map_err(|err| store_failure(err.into()))?;
        let store = self.store.clone();
        blocking(move || store.keep_account(&json).map_err(store_failure)).await
    }

    async fn account_lock(&self) -> Result<Lock, Failure> {
        let taken = async {
            loop {
                let store = self.store.clone();
                match blocking(move || store.lock("account").map_err(store_failure)).await? {
                    Locking::Ours(lock) => return Ok(lock),
                    Locking::Taken => tokio::time::sleep(LOCK_AGAIN).await,
                }
            }
        };
        tokio::time::timeout(ACCOUNT_PATIENCE, taken).await.map_err(|_| Failure::late("another gateway's account"))?
    }
}

/// The account's key from the store, or a new one that is in the store then.
fn account_key(store: &Store) -> Result<(Key, PrivateKeyDer<'static>), Failure> {
    let parsed = |pem: &[u8]| match PrivateKeyDer::from_pem_slice(pem) {
        Ok(PrivateKeyDer::Pkcs8(der)) => {
            Key::from_pkcs8_der(der.clone_key()).ok().map(|key| (key, PrivateKeyDer::Pkcs8(der)))
        }
        _ => None,
    };
    if let Some(pem) = store.account_key().map_err(store_failure)? {
        if let Some(key) = parsed(&pem) {
            return Ok(key);
        }
        let aside = store.set_account_key_aside().map_err(store_failure)?;
        warn!(kept_as = %aside.display(), "account key in the store can't be used, so a new account is opened");
    }
    let bug = |what: &str| Failure::ours(what, "this is a bug in tidegate");
    let pem = KeyPair::generate().map_err(|err| bug(&err.to_string()))?.serialize_pem();
    store.keep_account_key(&pem).map_err(store_failure)?;
    parsed(pem.as_bytes()).ok_or_else(|| bug("a new account key can't be read"))
}
