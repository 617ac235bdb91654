//! Keeps responses fresh: one task looks at all certificates once a second, and asks where it is time to.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::care::Care;
use super::{Origin, Staple, Stapled, Unusable, request, responder, verify};
use crate::tls::load::unix_now;

/// Bytes of a response. A longer one is refused; they have 500 to 5,000.
const MAX_RESPONSE: usize = 64 << 10;

/// How long a responder may take. Beyond it the question has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Responders asked at once. Further certificates wait their turn.
const AT_ONCE: usize = 4;

/// How often certificates are looked at: one may have been renewed, a response may have run out, clocks may jump.
const LOOK: Duration = Duration::from_secs(1);

/// Kept responses that are older than this are deleted at the start: no authority's holds longer than ten days.
const KEPT: Duration = Duration::from_secs(90 * 86_400);

/// Looks after the responses of all certificates, until it is dropped.
#[derive(Debug)]
pub struct OcspKeeper {
    ledger: Arc<Mutex<Ledger>>,
    desk: Arc<Desk>,
    task: AbortHandle,
}

/// What is known.
#[derive(Debug, Default)]
struct Ledger {
    places: Vec<Place>,
    /// By certificate, so that what stands in two places is asked for once, and a reload forgets nothing.
    cares: HashMap<Id, Care>,
}

#[derive(Debug)]
struct Place {
    stapled: Stapled,
    /// What stood there when it was last looked at.
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    key: Arc<CertifiedKey>,
    id: Id,
    /// Who is asked for its response.
    url: Option<String>,
}

/// A certificate, by the first half of its SHA-256.
type Id = [u8; 16];

/// What asking takes.
#[derive(Debug)]
struct Desk {
    shelf: Option<PathBuf>,
    client: Client<HttpConnector, Full<Bytes>>,
    places: Semaphore,
    good: IntCounter,
    refused: IntCounter,
    failed: IntCounter,
    stapled: IntGauge,
}

/// A responder that is to be asked.
struct Question {
    id: Id,
    url: String,
    label: String,
    key: Arc<CertifiedKey>,
}

impl OcspKeeper {
    /// Keeps responses in `state`, counts on `registry`, and asks on `control`.
    ///
    /// # Errors
    ///
    /// When `registry` has the metrics' names already.
    pub fn start(control: &Handle, state: Option<&Path>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "OCSP responses read or asked for: ok is stapled, refused can't be, failed never came.";
        let responses = IntCounterVec::new(Opts::new("tidegate_ocsp_responses_total", help), &["result"])?;
        registry.register(Box::new(responses.clone()))?;
        let stapled = IntGauge::new("tidegate_ocsp_stapled", "Certificates that are shown with an OCSP response.")?;
        registry.register(Box::new(stapled.clone()))?;
        let shelf = state.map(|state| state.join("ocsp"));
        if let Some(shelf) = &shelf {
            sweep(shelf);
        }
        let desk = Arc::new(Desk {
            shelf,
            // The next question is hours away.
            client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(HttpConnector::new()),
            places: Semaphore::new(AT_ONCE),
            good: responses.with_label_values(&["ok"]),
            refused: responses.with_label_values(&["refused"]),
            failed: responses.with_label_values(&["failed"]),
            stapled,
        });
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let task = control.spawn(run(Arc::clone(&ledger), Arc::clone(&desk))).abort_handle();
        Ok(Self { ledger, desk, task })
    }

    /// Looks after what stands in these places from now on. What is known or kept on disk is stapled before this returns.
    pub fn apply(&self, places: Vec<Stapled>) {
        let mut ledger = lock(&self.ledger);
        ledger.places = places.into_iter().map(|stapled| Place { stapled, seen: None }).collect();
        ledger.show(&self.desk, unix_now());
    }
}

impl Drop for OcspKeeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A panic in one look doesn't end the others: what it left is looked at again.
fn lock(ledger: &Mutex<Ledger>) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run(ledger: Arc<Mutex<Ledger>>, desk: Arc<Desk>) {
    let mut asked = JoinSet::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            Some(Ok((question, answer))) = asked.join_next() => lock(&ledger).hear(&desk, &question, answer, unix_now()),
        }
        let questions = {
            let (mut ledger, now) = (lock(&ledger), unix_now());
            ledger.show(&desk, now);
            ledger.questions(now)
        };
        for question in questions {
            let desk = Arc::clone(&desk);
            asked.spawn(async move {
                let answer = desk.ask(&question).await;
                (question, answer)
            });
        }
    }
}

impl Ledger {
    /// Makes every place show what may be stapled at `now`.
    fn show(&mut self, desk: &Desk, now: i64) {
        let mut used = HashSet::new();
        let mut stapled = 0;
        for place in &mut self.places {
            let Some(key) = place.stapled.slot.get() else { continue };
            let seen = match &mut place.seen {
                Some(seen) if Arc::ptr_eq(&seen.key, &key) => seen,
                seen => {
                    let fresh = meet(&place.stapled, key, desk, &mut self.cares, now);
                    seen.insert(fresh)
                }
            };
            used.insert(seen.id);
            let care = self.cares.entry(seen.id).or_default();
            if care.ran_out(now) {
                warn!(certificate = place.stapled.label, "ocsp response ran out and is stapled no more");
            }
            let staple = care.staple(now).map(|staple| &staple.der);
            if seen.key.ocsp.as_ref() != staple {
                let next = Arc::new(CertifiedKey { ocsp: staple.cloned(), ..CertifiedKey::clone(&seen.key) });
                // Where it was renewed just now, the next look finds that.
                if place.stapled.slot.exchange(&seen.key, &next) {
                    seen.key = next;
                }
            }
            stapled += i64::from(seen.key.ocsp.is_some());
        }
        self.cares.retain(|id, _| used.contains(id));
        desk.stapled.set(stapled);
    }

    /// Who is to be asked at `now`.
    fn questions(&mut self, now: i64) -> Vec<Question> {
        let mut questions = Vec::new();
        for place in &self.places {
            let Some(Seen { key, id, url: Some(url) }) = &place.seen else { continue };
            if self.cares.get_mut(id).is_some_and(|care| care.begins_to_ask(now)) {
                let (url, label) = (url.clone(), place.stapled.label.clone());
                questions.push(Question { id: *id, url, label, key: Arc::clone(key) });
            }
        }
        questions
    }

    /// Takes note of what came of a question.
    fn hear(&mut self, desk: &Desk, question: &Question, answer: anyhow::Result<Staple>, now: i64) {
        let Question { id, url, label, .. } = question;
        let Some(care) = self.cares.get_mut(id) else { return }; // It isn't served any more.
        match answer {
            Ok(fresh) => {
                if let Err(error) = desk.keep(*id, &fresh) {
                    warn!(%error, "ocsp response could not be kept");
                }
                if care.take(fresh, now, &mut rand::rng()) {
                    info!(certificate = label, url, "ocsp response stapled");
                }
                desk.good.inc();
            }
            Err(error) => {
                if care.failed(format!("{error:#}"), now, &mut rand::rng()) {
                    warn!(certificate = label, url, "ocsp response could not be had: {error:#}");
                }
                // Last: who sees the count finds the reason.
                if error.is::<Unusable>() { desk.refused.inc() } else { desk.failed.inc() }
            }
        }
    }
}

/// Looks for the first time at a certificate in its place: what a file or the disk says of it is taken.
fn meet(stapled: &Stapled, key: Arc<CertifiedKey>, desk: &Desk, cares: &mut HashMap<Id, Care>, now: i64) -> Seen {
    let leaf = key.cert.first().map_or(&[][..], |leaf| leaf);
    let mut id = Id::default();
    id.copy_from_slice(&Sha256::digest(leaf)[..size_of::<Id>()]);
    let care = cares.entry(id).or_insert_with(|| {
        let mut care = Care::default();
        if let Some(kept) = desk.kept(id, &key, now) {
            care.take(kept, now, &mut rand::rng());
        }
        care
    });
    let url = match &stapled.from {
        Origin::Responder if key.cert.len() > 1 => key.cert.first().and_then(responder),
        Origin::Responder => None,
        Origin::File(Some(staple)) => {
            if let Err(error) = desk.keep(id, staple) {
                warn!(%error, "ocsp response could not be kept");
            }
            care.take(staple.clone(), now, &mut rand::rng());
            desk.good.inc();
            None
        }
        Origin::File(None) => {
            desk.refused.inc();
            None
        }
    };
    Seen { key, id, url }
}

impl Desk {
    async fn ask(&self, question: &Question) -> anyhow::Result<Staple> {
        let _place = self.places.acquire().await?;
        let [leaf, issuer, ..] = &*question.key.cert else { anyhow::bail!("the chain doesn't hold the issuer") };
        let asked = Request::post(&question.url)
            .header(header::CONTENT_TYPE, "application/ocsp-request")
            .body(Full::new(Bytes::from(request(leaf, issuer)?)))?;
        let body = timeout(PATIENCE, async {
            let answer = self.client.request(asked).await?;
            anyhow::ensure!(answer.status() == http::StatusCode::OK, "the responder answers {}", answer.status());
            let body = Limited::new(answer.into_body(), MAX_RESPONSE).collect().await;
            body.map(|body| body.to_bytes()).map_err(|err| anyhow::anyhow!("the response broke off: {err}"))
        });
        let body = body.await.map_err(|_| anyhow::anyhow!("the responder takes too long"))??;
        Ok(verify(&body, leaf, issuer, unix_now())?)
    }

    /// What was kept for a certificate, if it may be stapled still.
    fn kept(&self, id: Id, key: &CertifiedKey, now: i64) -> Option<Staple> {
        let [leaf, issuer, ..] = &*key.cert else { return None };
        let der = fs::read(self.shelf.as_ref()?.join(file_name(id))).ok()?;
        verify(&der, leaf, issuer, now).ok()
    }

    /// Keeps a response for the next start: whole or not at all.
    fn keep(&self, id: Id, staple: &Staple) -> io::Result<()> {
        let Some(shelf) = &self.shelf else { return Ok(()) };
        fs::create_dir_all(shelf)?;
        let path = shelf.join(file_name(id));
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, &staple.der)?;
        fs::rename(fresh, path)
    }
}

/// Named after the certificate, so that a renewed one doesn't find the old one's response.
fn file_name(id: Id) -> String {
    let mut name = String::new();
    for byte in id {
        let _ = write!(name, "{byte:02x}"); // Writing to a String can't fail.
    }
    name + ".der"
}

/// Deletes what was kept for certificates that are long gone.
fn sweep(shelf: &Path) {
    let old = |file: &fs::DirEntry| {
        let kept = file.metadata().and_then(|facts| facts.modified());
        kept.is_ok_and(|kept| SystemTime::now().duration_since(kept).is_ok_and(|age| age > KEPT))
    };
    for file in fs::read_dir(shelf).into_iter().flatten().flatten().filter(old) {
        let _ = fs::remove_file(file.path());
    }
}
