//! Looks after one certificate: observe, plan, act, report, wait.
//!
//! Nothing is remembered here that a restart would miss: what is in force is in the store, and so are the pauses.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use tidegate_model::desired::AcmeNames;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::book::{Book, State, Wake};
use super::failure::Failure;
use super::metrics::AcmeMetrics;
use super::order::{Desk, blocking};
use super::plan::{self, Failed, Life, Record, Step, Why, later};
use super::store::{CertId, Locking, Stamp, Store};
use crate::tls::{Slot, certify_pem};

/// How often the store is looked at: another gateway may have renewed, and clocks may jump.
const LOOK: Duration = Duration::from_secs(1);

/// No order takes longer. Beyond it the try has failed; the next one goes on with the same order.
const ORDER_PATIENCE: Duration = Duration::from_secs(300);

/// Looks after one certificate.
pub struct Keeper {
    /// What its files are called.
    pub id: CertId,
    /// The names it is for.
    pub names: AcmeNames,
    /// Where handshakes find it.
    pub slot: Arc<Slot>,
    /// Who orders.
    pub desk: Arc<Desk>,
    /// Lets an operator ask.
    pub wake: Arc<Wake>,
    /// Where operators look.
    pub book: Book,
    /// What is counted.
    pub metrics: AcmeMetrics,
    /// Places for orders.
    pub orders: Arc<Semaphore>,
}

/// What a keeper has in hand.
#[derive(Default)]
struct Hand {
    /// The state of the file that was read last.
    stamp: Option<Stamp>,
    /// What was in it, if it was good.
    good: Option<Good>,
    /// What is wrong with the store, until it isn't.
    trouble: Option<String>,
    /// When an operator asked for an order that wasn't made yet.
    asked: Option<Timestamp>,
    /// A pause that the store couldn't keep.
    rest: Option<Instant>,
}

struct Good {
    pem: Vec<u8>,
    leaf: CertificateDer<'static>,
    life: Life,
}

impl Keeper {
    /// Goes on until it is aborted.
    pub async fn run(self) {
        let mut hand = Hand::default();
        let store = self.desk.store.clone();
        let _ = blocking(move || {
            store.sweep();
            Ok(())
        })
        .await;
        loop {
            self.look(&mut hand).await;
            let record = self.record(&mut hand).await;
            if self.wake.take() {
                hand.asked = Some(Timestamp::now());
                hand.rest = None;
            }
            if hand.asked.is_some_and(|asked| record.issued.is_some_and(|issued| issued >= asked)) {
                hand.asked = None; // Another gateway was faster.
            }
            let step = self.next(&hand, &record);
            self.report(&hand, &record, step);
            let resting = hand.rest.is_some_and(|until| until > Instant::now());
            match step {
                Step::Order(why) if !resting => self.order(&mut hand, why).await,
                Step::Order(_) => {}
                Step::Wait(_) => self.hear_suggestion(&mut hand, &record).await,
            }
            tokio::select! {
                () = sleep_until(Instant::now() + LOOK) => {}
                () = self.wake.woken() => {}
            }
        }
    }

    fn next(&self, hand: &Hand, record: &Record) -> Step {
        let life = hand.good.as_ref().map(|good| good.life);
        plan::next(life, record, self.desk.settings.renew_before, hand.asked.is_some(), Timestamp::now())
    }

    /// Takes over what is new in the store.
    async fn look(&self, hand: &mut Hand) {
        let (store, id, before) = (self.desk.store.clone(), self.id.clone(), hand.stamp);
        let looked = blocking(move || {
            let stamp = store.stamp(&id);
            let pem = match stamp {
                Some(_) if stamp == before => None,
                _ => store.load_certificate(&id).map_err(|err| unreadable(&store, &id, &err))?,
            };
            Ok((stamp, pem))
        });
        match looked.await {
            Ok((stamp, Some(pem))) => {
                hand.stamp = stamp;
                self.take(hand, pem);
            }
            Ok((None, None)) => self.put_back(hand).await,
            Ok((Some(_), None)) => {}
            Err(failure) => self.trouble(hand, failure.what),
        }
    }

    fn take(&self, hand: &mut Hand, pem: Vec<u8>) {
        match read(&self.desk.store, &self.id, &self.names, &pem) {
            Ok((key, life)) => {
                let leaf = key.cert[0].clone();
                let renewed = hand.good.as_ref().is_none_or(|good| good.leaf != leaf);
                self.slot.put(Arc::new(key));
                if renewed {
                    info!(names = ?self.names.0, until = %life.until, "certificate is served");
                }
                hand.good = Some(Good { pem, leaf, life });
                hand.trouble = None;
            }
            // What is served meanwhile stays.
            Err(what) => {
                hand.good = None;
                self.trouble(hand, what);
            }
        }
    }

    /// A certificate that vanished from the store is put back, rather than ordered again: the folder was lost, not the
    /// certificate.
    async fn put_back(&self, hand: &mut Hand) {
        hand.stamp = None;
        let Some(good) = &hand.good else { return };
        let (store, id, pem) =
            (self.desk.store.clone(), self.id.clone(), String::from_utf8_lossy(&good.pem).into_owned());
        let done = blocking(move || {
            let kept = store.make().and_then(|()| store.keep_certificate(&id, &pem));
            kept.map_err(|err| Failure::ours(format!("certificate vanished from the store: {err}"), ""))
        });
        match done.await {
            Ok(()) => warn!(names = ?self.names.0, "certificate vanished from the store and was put back"),
            Err(failure) => self.trouble(hand, failure.what),
        }
    }

    async fn record(&self, hand: &mut Hand) -> Record {
        let (store, id) = (self.desk.store.clone(), self.id.clone());
        match blocking(move || store.record(&id).map_err(|err| unreadable(&store, &id, &err))).await {
            Ok(record) => record,
            Err(failure) => {
                self.trouble(hand, failure.what);
                Record::default()
            }
        }
    }

    /// Orders, unless another gateway does, or has just done so.
    async fn order(&self, hand: &mut Hand, why: Why) {
        let Ok(_place) = self.orders.acquire().await else { return };
        let (store, id) = (self.desk.store.clone(), self.id.clone());
        let locked = blocking(move || {
            let locked = store.make().and_then(|()| store.lock(id.as_str()));
            locked.map_err(|err| {
                let what = format!("the store {} can't be used: {err}", store.root().display());
                Failure::ours(what, "check acme.store: its permissions, and the disk's room")
            })
        });
        let _lock = match locked.await {
            Ok(Locking::Ours(lock)) => {
                if !lock.is_held() {
                    warn!("store's file system can't lock: other gateways may order the same certificate");
                }
                lock
            }
            Ok(Locking::Taken) => return debug!(names = ?self.names.0, "another gateway orders this certificate"),
            Err(failure) => {
                let record = self.record(hand).await;
                return self.failed(hand, record, &failure).await;
            }
        };
        // Whoever held the lock may have ordered, or failed, meanwhile.
        self.look(hand).await;
        let mut record = self.record(hand).await;
        if hand.asked.is_some_and(|asked| record.issued.is_some_and(|issued| issued >= asked)) {
            hand.asked = None;
        }
        if !matches!(self.next(hand, &record), Step::Order(_)) {
            return;
        }
        info!(names = ?self.names.0, why = why.word(), directory = self.desk.settings.directory, "certificate is ordered");
        let old = hand.good.as_ref().map(|good| good.leaf.clone());
        let order = self.desk.obtain(&self.names, &self.id, &mut record, old.as_ref());
        let result = timeout(ORDER_PATIENCE, order).await.unwrap_or_else(|_| Err(Failure::late("the order")));
        hand.asked = None;
        match result {
            Ok(()) => {
                info!(names = ?self.names.0, "certificate was issued");
                self.look(hand).await;
                let step = self.next(hand, &record);
                self.report(hand, &record, step);
                self.metrics.issued();
            }
            Err(failure) => self.failed(hand, record, &failure).await,
        }
    }

    /// Says why, and when it is tried again.
    async fn failed(&self, hand: &mut Hand, mut record: Record, failure: &Failure) {
        hand.asked = None;
        record.failures = record.failures.saturating_add(1);
        let pause = failure.kind.rest(record.failures, self.desk.wait.take(), &mut rand::rng());
        let now = Timestamp::now();
        record.error = Some(format!("{} ({})", failure.what, failure.help));
        record.failed = Some(now);
        record.rest_until = Some(later(now, pause));
        warn!(
            names = ?self.names.0,
            directory = self.desk.settings.directory,
            failures = record.failures,
            again_in = ?Duration::from_secs(pause.as_secs()),
            help = failure.help,
            "certificate couldn't be ordered: {}",
            failure.what
        );
        let (store, id, kept) = (self.desk.store.clone(), self.id.clone(), record.clone());
        let kept = blocking(move || store.keep_record(&id, &kept).map_err(|err| Failure::ours(err.to_string(), "")));
        if kept.await.is_err() {
            hand.rest = Some(Instant::now() + pause);
        }
        if failure.kind == Failed::Ours {
            hand.trouble = record.error.clone();
        }
        self.report(hand, &record, Step::Wait(later(now, pause)));
        self.metrics.failed(failure.kind); // Last: who sees the count finds the reason.
    }

    /// Asks the authority when to renew, where it is time to ask (RFC 9773).
    async fn hear_suggestion(&self, hand: &mut Hand, record: &Record) {
        let Some(leaf) = hand.good.as_ref().map(|good| good.leaf.clone()) else { return };
        let now = Timestamp::now();
        if self.desk.settings.renew_before.is_some() || record.ask_suggestion.is_some_and(|at| at > now) {
            return;
        }
        let (store, id) = (self.desk.store.clone(), self.id.clone());
        let locked = blocking(move || store.lock(id.as_str()).map_err(|err| Failure::ours(err.to_string(), "")));
        let Ok(Locking::Ours(_lock)) = locked.await else { return };
        let (suggested, again) = self.desk.suggestion(&leaf).await;
        let record = self.record(hand).await; // Not the one from before the lock.
        let record = Record { suggested: suggested.or(record.suggested), ask_suggestion: Some(again), ..record };
        let (store, id) = (self.desk.store.clone(), self.id.clone());
        let _ =
            blocking(move || store.keep_record(&id, &record).map_err(|err| Failure::ours(err.to_string(), ""))).await;
    }

    /// Says what is wrong with the store, once.
    fn trouble(&self, hand: &mut Hand, what: String) {
        if hand.trouble.as_ref() != Some(&what) {
            warn!(names = ?self.names.0, "certificate in the store can't be used: {what}");
            hand.trouble = Some(what);
        }
    }

    fn report(&self, hand: &Hand, record: &Record, step: Step) {
        let state = State {
            life: hand.good.as_ref().map(|good| (good.life.from, good.life.until)),
            next: match step {
                Step::Order(_) => Some(Timestamp::now()),
                Step::Wait(until) => Some(until),
            },
            error: hand.trouble.clone().or_else(|| record.error.clone()),
            failures: record.failures,
        };
        self.book.write(&self.names, state);
    }
}

/// What the store holds for `names` when a gateway starts: its certificate, else one that covers most of them, so that a
/// changed list of names doesn't take away a certificate that most of them have.
pub fn at_start(store: &Store, names: &AcmeNames) -> Option<Arc<CertifiedKey>> {
    let id = CertId::of(names);
    if let Ok(Some(pem)) = store.load_certificate(&id)
        && let Ok((key, _)) = read(store, &id, names, &pem)
    {
        return Some(Arc::new(key));
    }
    let now = Timestamp::now().as_second();
    let covered = |pem: &Vec<u8>| {
        let (key, facts) = certify_pem(store.root(), pem).ok()?;
        let covers = names.0.iter().filter(|name| facts.names.contains(name)).count();
        (covers > 0 && facts.not_after > now).then_some((covers, facts.not_after, key))
    };
    let best =
        store.all_certificates().iter().filter_map(covered).max_by_key(|(covers, until, _)| (*covers, *until))?;
    Some(Arc::new(best.2))
}

/// A certificate of the store, if it is good for `names`.
fn read(store: &Store, id: &CertId, names: &AcmeNames, pem: &[u8]) -> Result<(CertifiedKey, Life), String> {
    let file = store.certificate(id);
    let (key, facts) = certify_pem(&file, pem).map_err(|problem| format!("{}: {}", file.display(), problem.what))?;
    if let Some(missing) = names.0.iter().find(|name| !facts.names.contains(name)) {
        return Err(format!("{}: it isn't for {missing}", file.display()));
    }
    let at = |seconds| Timestamp::from_second(seconds).map_err(|err| format!("{}: {err}", file.display()));
    Ok((key, Life { from: at(facts.not_before)?, until: at(facts.not_after)? }))
}

fn unreadable(store: &Store, id: &CertId, err: &std::io::Error) -> Failure {
    Failure::ours(format!("{}: {err}", store.certificate(id).display()), "check its permissions")
}
