//! One order from the account to the certificate in the store (RFC 8555 §7).
//!
//! # Invariants
//!
//! - An order's URL and private key are in the store before they are needed, so the next start goes on with the order.
//! - A certificate is kept only with the key it was made for, and only if it has all names.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Error, Identifier, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use jiff::Timestamp;
use rand::Rng as _;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::CertificateDer;
use tidegate_model::desired::{self, AcmeChallengeKind, AcmeNames};
use tokio::sync::Mutex;
use tracing::info;

use super::challenge::Challenges;
use super::client::Wait;
use super::failure::Failure;
use super::plan::{Record, later};
use super::store::{CertId, Store};
use crate::tls::certify_pem;

/// How an order is looked at while the authority works: after half a second, then ever more rarely, unless the
/// authority says when.
const POLLING: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.4).timeout(Duration::from_secs(120));

/// How often an order goes on at once after a refused nonce, beyond the library's own two tries. Beyond it there is a pause.
const NONCES: u32 = 5;

/// How soon at least, and how late at most, the authority is asked again when to renew (RFC 9773 §4.3).
const SUGGESTION_AGAIN: (Duration, Duration) = (Duration::from_secs(3_600), Duration::from_secs(86_400));

/// What all orders of one configuration share.
pub struct Desk {
    /// How to order.
    pub settings: desired::Acme,
    /// Where everything is kept.
    pub store: Store,
    challenges: Challenges,
    pub(super) account: Mutex<Option<Account>>,
    /// How long the authority asked to wait.
    pub wait: Wait,
}

impl Desk {
    /// Nothing is asked of the authority yet.
    pub fn new(settings: desired::Acme, challenges: Challenges) -> Self {
        let store = Store::at(&settings.store, &settings.directory);
        Self { settings, store, challenges, account: Mutex::default(), wait: Wait::default() }
    }

    /// Orders a certificate for `names`, or goes on with an order that `record` knows, and puts it in the store.
    /// The caller holds the lock of `id`.
    ///
    /// # Errors
    ///
    /// What went wrong, in the authority's words where it was the authority.
    pub async fn obtain(
        &self,
        names: &AcmeNames,
        id: &CertId,
        record: &mut Record,
        replaces: Option<&CertificateDer<'static>>,
    ) -> Result<(), Failure> {
        let mut result = self.try_obtain(names, id, record, replaces).await;
        for _ in 0..NONCES {
            if !result.as_ref().is_err_and(|failure| failure.stale_nonce) {
                break;
            }
            // The order goes on where it stands.
            result = self.try_obtain(names, id, record, replaces).await;
        }
        if let Err(failure) = &result {
            if failure.account_is_gone {
                *self.account.lock().await = None; // The next try opens it again, with the same key.
            }
            if failure.order_is_over {
                record.order = None;
            }
        }
        result
    }

    async fn try_obtain(
        &self,
        names: &AcmeNames,
        id: &CertId,
        record: &mut Record,
        replaces: Option<&CertificateDer<'static>>,
    ) -> Result<(), Failure> {
        let account = self.account().await?;
        let mut order = match self.unfinished(&account, id, record).await? {
            Some(order) => order,
            None => self.place(&account, names, replaces).await?,
        };
        record.order = Some(order.url().to_owned());
        self.keep_record(id, record).await?;

        if order.state().status == OrderStatus::Pending {
            self.authorize(&mut order, record.failures).await?;
        }
        let key = match order.state().status {
            OrderStatus::Ready => self.finalize(&mut order, names, id).await?,
            OrderStatus::Processing | OrderStatus::Valid => {
                let missing = || Failure {
                    order_is_over: true,
                    ..Failure::ours("the order's key is lost", "a new order is made")
                };
                self.on_disk(id, |store, id| store.order_key(id)).await?.ok_or_else(missing)?
            }
            OrderStatus::Pending | OrderStatus::Invalid => {
                return Err(why_invalid(&mut order).await.unwrap_or_else(Failure::unexplained));
            }
        };
        let chain = order.poll_certificate(&POLLING).await.map_err(|err| match err {
            Error::Api(problem) => Failure { order_is_over: true, ..Failure::from(Error::Api(problem)) },
            err => Failure::from(err),
        })?;
        self.keep(names, id, &key, &chain).await?;
        *record = Record { issued: Some(Timestamp::now()), ..Record::default() };
        self.keep_record(id, record).await?;
        self.on_disk(id, |store, id| {
            store.forget_order_key(id);
            Ok(())
        })
        .await
    }

    /// The authority's suggestion when to renew (RFC 9773): a moment within its window, and when to ask again. `None`
    /// where it suggests nothing.
    pub async fn suggestion(&self, leaf: &CertificateDer<'_>) -> (Option<Timestamp>, Timestamp) {
        let (soonest, latest) = SUGGESTION_AGAIN;
        let now = Timestamp::now();
        let asked = async {
            let name = CertificateIdentifier::try_from(leaf).ok()?;
            let account = self.account().await.ok()?;
            account.renewal_info(&name).await.ok()
        };
        let Some((info, again)) = asked.await else { return (None, later(now, latest)) };
        let (start, end) = (info.suggested_window.start.unix_timestamp(), info.suggested_window.end.unix_timestamp());
        let moment = rand::rng().random_range(start..=end.max(start));
        (Timestamp::from_second(moment).ok(), later(now, again.clamp(soonest, latest)))
    }

    /// The order that an earlier try, or an earlier life of this gateway, didn't finish.
    async fn unfinished(&self, account: &Account, id: &CertId, record: &Record) -> Result<Option<Order>, Failure> {
        let Some(url) = &record.order else { return Ok(None) };
        let mut order = match account.order(url.clone()).await {
            Ok(order) => order,
            Err(Error::Api(problem)) if problem.r#type.as_deref().is_none_or(|kind| !kind.ends_with("badNonce")) => {
                // Forgotten, expired, or another account's.
                let failure = Failure::from(Error::Api(problem));
                return if failure.account_is_gone { Err(failure) } else { Ok(None) };
            }
            Err(err) => return Err(err.into()),
        };
        let has_key = self.on_disk(id, |store, id| store.order_key(id)).await?.is_some();
        let goes_on = match order.state().status {
            OrderStatus::Pending | OrderStatus::Ready => true,
            OrderStatus::Processing | OrderStatus::Valid => has_key,
            OrderStatus::Invalid => false,
        };
        if goes_on {
            info!(certificate = id.as_str(), status = ?order.state().status, "unfinished order is taken up again");
        }
        Ok(goes_on.then_some(order))
    }

    async fn place(
        &self,
        account: &Account,
        names: &AcmeNames,
        replaces: Option<&CertificateDer<'static>>,
    ) -> Result<Order, Failure> {
        let names: Vec<Identifier> = names.0.iter().cloned().map(Identifier::Dns).collect();
        let old = replaces.and_then(|leaf| CertificateIdentifier::try_from(leaf).ok());
        if let Some(old) = old {
            match account.new_order(&NewOrder::new(&names).replaces(old)).await {
                Ok(order) => return Ok(order),
                // An authority without RFC 9773, or a certificate that was replaced already.
                Err(Error::Unsupported(_)) => {}
                Err(Error::Api(problem))
                    if problem.r#type.as_deref().is_some_and(|kind| kind.ends_with(":alreadyReplaced")) => {}
                Err(err) => return Err(err.into()),
            }
        }
        Ok(account.new_order(&NewOrder::new(&names)).await?)
    }

    /// Shows the authority that the names are ours, and waits until it believes that.
    async fn authorize(&self, order: &mut Order, failures: u32) -> Result<(), Failure> {
        let mut posed = Posed { desk: self, pending: Vec::new() };
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status != AuthorizationStatus::Pending {
                continue; // Valid from an earlier order; anything else shows in the order's status.
            }
            let name = authorization.identifier().to_string();
            let offers =
                |kind: &AcmeChallengeKind| authorization.challenges.iter().any(|offer| offer.r#type == wire(*kind));
            let offered: Vec<_> = self.settings.challenges.iter().copied().filter(offers).collect();
            // After a failure the next kind has its turn.
            let Some(kind) = offered.get(failures as usize % offered.len().max(1)).copied() else {
                let what = format!("{name}: the authority offers none of the challenges in acme.challenge");
                return Err(Failure::ours(what, "allow the other one too, or ask another authority"));
            };
            let Some(mut challenge) = authorization.challenge(wire(kind)) else { continue };
            let answer = challenge.key_authorization();
            let key = match kind {
                AcmeChallengeKind::Http01 => challenge.token.clone(),
                AcmeChallengeKind::TlsAlpn01 => name.to_ascii_lowercase(),
            };
            posed.pose(kind, key, answer.as_str()).await?;
            if challenge.status == ChallengeStatus::Pending {
                challenge.set_ready().await?;
            }
        }
        let ready = order.poll_ready(&POLLING).await;
        posed.withdraw().await;
        match ready {
            Ok(OrderStatus::Invalid) => Err(why_invalid(order).await.unwrap_or_else(Failure::unexplained)),
            Ok(_) => Ok(()),
            Err(Error::Api(problem)) => {
                let unexplained = || Failure { order_is_over: true, ..Error::Api(problem).into() };
                Err(why_invalid(order).await.unwrap_or_else(unexplained))
            }
            Err(err) => Err(err.into()),
        }
    }

    /// Asks for the certificate. Returns its private key, which is in the store by then.
    async fn finalize(&self, order: &mut Order, names: &AcmeNames, id: &CertId) -> Result<String, Failure> {
        let ours =
            |err: rcgen::Error| Failure::ours(format!("no request can be made: {err}"), "this is a bug in tidegate");
        let key = KeyPair::generate().map_err(ours)?;
        let mut params = CertificateParams::new(names.0.clone()).map_err(ours)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(ours)?;
        let pem = key.serialize_pem();
        let kept = pem.clone();
        self.on_disk(id, move |store, id| store.keep_order_key(id, &kept)).await?;
        order.finalize_csr(request.der()).await?;
        Ok(pem)
    }

    async fn keep(&self, names: &AcmeNames, id: &CertId, key: &str, chain: &str) -> Result<(), Failure> {
        let text = format!("{}\n{}", key.trim_end(), chain);
        let over = |what: String| Failure { order_is_over: true, ..Failure::ours(what, "a new order is made") };
        let (_, facts) = certify_pem(&self.store.certificate(id), text.as_bytes())
            .map_err(|problem| over(format!("what the authority issued can't be used: {}", problem.what)))?;
        if let Some(name) = names.0.iter().find(|name| !facts.names.contains(name)) {
            return Err(over(format!("what the authority issued isn't for {name}")));
        }
        self.on_disk(id, move |store, id| store.keep_certificate(id, &text)).await
    }

    async fn keep_record(&self, id: &CertId, record: &Record) -> Result<(), Failure> {
        let record = record.clone();
        self.on_disk(id, move |store, id| store.keep_record(id, &record)).await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        id: &CertId,
        act: impl FnOnce(&Store, &CertId) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let (store, id) = (self.store.clone(), id.clone());
        blocking(move || act(&store, &id).map_err(store_failure)).await
    }
}

/// Challenges of one order. They are taken back when it is over, whatever came of it.
struct Posed<'d> {
    desk: &'d Desk,
    pending: Vec<(AcmeChallengeKind, String)>,
}

impl Posed<'_> {
    async fn pose(&mut self, kind: AcmeChallengeKind, key: String, answer: &str) -> Result<(), Failure> {
        let (store, shown, text) = (self.desk.store.clone(), key.clone(), answer.to_owned());
        self.desk.challenges.pose(kind, &key, answer);
        self.pending.push((kind, key));
        blocking(move || store.pose(kind, &shown, &text).map_err(store_failure)).await
    }

    async fn withdraw(mut self) {
        let (store, pending) = (self.desk.store.clone(), self.forget());
        let gone = blocking(move || {
            pending.iter().for_each(|(kind, key)| store.withdraw(*kind, key));
            Ok(())
        });
        let _ = gone.await; // What stays is swept later.
    }

    fn forget(&mut self) -> Vec<(AcmeChallengeKind, String)> {
        let pending = std::mem::take(&mut self.pending);
        pending.iter().for_each(|(kind, key)| self.desk.challenges.withdraw(*kind, key));
        pending
    }
}

impl Drop for Posed<'_> {
    fn drop(&mut self) {
        let pending = self.forget();
        let store = self.desk.store.clone();
        if let (false, Ok(runtime)) = (pending.is_empty(), tokio::runtime::Handle::try_current()) {
            drop(runtime.spawn_blocking(move || pending.iter().for_each(|(kind, key)| store.withdraw(*kind, key))));
        }
    }
}

fn wire(kind: AcmeChallengeKind) -> ChallengeType {
    match kind {
        AcmeChallengeKind::Http01 => ChallengeType::Http01,
        AcmeChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// What the authority says about the names of an order that it refused.
async fn why_invalid(order: &mut Order) -> Option<Failure> {
    let mut failure: Option<Failure> = None;
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        for problem in authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref()) {
            let told = Failure::refused(&name, problem);
            match &mut failure {
                Some(first) => first.what.push_str(&format!("; {}", told.what)),
                None => failure = Some(told),
            }
        }
    }
    failure
}

pub(super) fn store_failure(err: std::io::Error) -> Failure {
    Failure::ours(format!("the store can't be used: {err}"), "check acme.store: its permissions, and the disk's room")
}

/// Runs what blocks where that is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(act).await {
        Ok(result) => result,
        Err(_) => Err(Failure::ours("the gateway stops", "")),
    }
}
