//! What is known about all certificates, for operators: `/certificates`, `/readyz`, `tidegate certs`, metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidegate_model::desired::AcmeNames;
use tokio::sync::Notify;

use super::metrics::AcmeMetrics;
use crate::tls::FileFacts;

/// An operator may ask for a certificate again after this time. Authorities count orders.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Names in a note. The rest is counted.
const NOTED: usize = 3;

/// The book. Clones see the same.
#[derive(Clone)]
pub struct Book(Arc<Mutex<Pages>>);

struct Pages {
    ordered: Vec<Ordered>,
    files: Vec<FileFacts>,
    /// Names whose expiry is in the metrics.
    told: BTreeSet<String>,
    metrics: AcmeMetrics,
}

struct Ordered {
    names: AcmeNames,
    wake: Arc<Wake>,
    asked: Option<Instant>,
    state: State,
}

/// What is known about a certificate that is ordered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    /// From when to when the certificate in force is valid; `None` while there is none.
    pub life: Option<(Timestamp, Timestamp)>,
    /// When it is renewed, or ordered (again).
    pub next: Option<Timestamp>,
    /// What went wrong last, until it goes well.
    pub error: Option<String>,
    /// Failures in a row.
    pub failures: u32,
}

/// Wakes a keeper.
#[derive(Debug, Default)]
pub(super) struct Wake {
    asked: AtomicBool,
    notify: Notify,
}

impl Wake {
    /// Whether somebody asked for an order since the last call.
    pub fn take(&self) -> bool {
        self.asked.swap(false, Relaxed)
    }

    /// Waits for somebody to ask.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

/// Where a certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// It is ordered.
    Acme,
    /// From files.
    File,
}

/// A certificate, as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The names it is for.
    pub names: Vec<String>,
    /// Where it comes from.
    pub source: Source,
    /// The file of its chain, where it comes from files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Its first moment; absent while there is none.
    pub not_before: Option<Timestamp>,
    /// Its last moment.
    pub not_after: Option<Timestamp>,
    /// When it is renewed, or tried again.
    pub next_renewal: Option<Timestamp>,
    /// What went wrong last, until it goes well.
    pub last_error: Option<String>,
    /// Failures in a row.
    #[serde(default)]
    pub failures: u32,
}

/// What came of asking for an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is ordered now.
    Ordering,
    /// No certificate that is ordered has this name.
    Unknown,
    /// Somebody asked just before.
    TooSoon,
}

impl Book {
    /// An empty one.
    pub fn new(metrics: AcmeMetrics) -> Self {
        Self(Arc::new(Mutex::new(Pages { ordered: Vec::new(), files: Vec::new(), told: BTreeSet::new(), metrics })))
    }

    /// All certificates: those that are ordered, then those from files.
    pub fn rows(&self) -> Vec<Row> {
        let pages = self.pages();
        let ordered = pages.ordered.iter().map(|ordered| Row {
            names: ordered.names.0.clone(),
            source: Source::Acme,
            file: None,
            not_before: ordered.state.life.map(|(from, _)| from),
            not_after: ordered.state.life.map(|(_, until)| until),
            next_renewal: ordered.state.next,
            last_error: ordered.state.error.clone(),
            failures: ordered.state.failures,
        });
        let files = pages.files.iter().map(|facts| Row {
            names: facts.names.clone(),
            source: Source::File,
            file: Some(facts.file.clone()),
            not_before: Timestamp::from_second(facts.not_before).ok(),
            not_after: Timestamp::from_second(facts.not_after).ok(),
            next_renewal: None,
            last_error: None,
            failures: 0,
        });
        ordered.chain(files).collect()
    }

    /// What `/readyz` adds: which names have no certificate yet.
    pub fn note(&self) -> Option<String> {
        let pages = self.pages();
        let mut waiting =
            pages.ordered.iter().filter(|ordered| ordered.state.life.is_none()).map(|o| o.names.0[0].as_str());
        let first: Vec<&str> = waiting.by_ref().take(NOTED).collect();
        let rest = match waiting.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!first.is_empty()).then(|| format!("no certificate was issued yet for {}{rest}", first.join(", ")))
    }

    /// Orders the certificate of `name` now, whatever pause it is in.
    pub fn ask(&self, name: &str) -> Asked {
        let mut pages = self.pages();
        let with_name = |ordered: &&mut Ordered| ordered.names.0.iter().any(|known| known.eq_ignore_ascii_case(name));
        let Some(ordered) = pages.ordered.iter_mut().find(with_name) else { return Asked::Unknown };
        if ordered.asked.is_some_and(|before| before.elapsed() < ASK_AGAIN) {
            return Asked::TooSoon;
        }
        ordered.asked = Some(Instant::now());
        ordered.wake.asked.store(true, Relaxed);
        ordered.wake.notify.notify_one();
        Asked::Ordering
    }

    /// Opens a page for a certificate that is ordered, or finds it.
    pub(super) fn open(&self, names: &AcmeNames) -> Arc<Wake> {
        let mut pages = self.pages();
        if let Some(known) = pages.ordered.iter().find(|ordered| ordered.names == *names) {
            return Arc::clone(&known.wake);
        }
        let wake = Arc::new(Wake::default());
        let (names, state) = (names.clone(), State::default());
        pages.ordered.push(Ordered { names, wake: Arc::clone(&wake), asked: None, state });
        pages.show();
        wake
    }

    /// Forgets the others.
    pub(super) fn retain(&self, stays: impl Fn(&AcmeNames) -> bool) {
        let mut pages = self.pages();
        pages.ordered.retain(|ordered| stays(&ordered.names));
        pages.show();
    }

    /// Writes down what is known about a certificate that is ordered.
    pub(super) fn write(&self, names: &AcmeNames, state: State) {
        let mut pages = self.pages();
        let Some(ordered) = pages.ordered.iter_mut().find(|ordered| ordered.names == *names) else { return };
        let other_life = ordered.state.life != state.life;
        ordered.state = state;
        if other_life {
            pages.show();
        }
    }

    /// The certificates that were read from files.
    pub(super) fn files(&self, files: Vec<FileFacts>) {
        let mut pages = self.pages();
        pages.files = files;
        pages.show();
    }

    /// With a certificate, for the page of metrics.
    #[cfg(test)]
    pub(crate) fn showing_one(self) -> Self {
        self.open(&AcmeNames(vec!["shop.example.com".into()]));
        self
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// Sets the metrics. A name that stays is never missing in between.
    fn show(&mut self) {
        let until = |ordered: &Ordered| ordered.state.life.map_or(0, |(_, until)| until.as_second());
        let ordered = self.ordered.iter().flat_map(|o| o.names.0.iter().map(move |name| (name.as_str(), until(o))));
        let files = self.files.iter().flat_map(|f| f.names.iter().map(|name| (name.as_str(), f.not_after)));
        let mut first: BTreeMap<&str, i64> = BTreeMap::new();
        for (name, until) in ordered.chain(files) {
            first.entry(name).and_modify(|known| *known = (*known).min(until)).or_insert(until);
        }
        first.iter().for_each(|(name, until)| self.metrics.expires(name, *until));
        self.told.iter().filter(|name| !first.contains_key(name.as_str())).for_each(|name| self.metrics.forget(name));
        self.told = first.into_keys().map(str::to_owned).collect();
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    fn names(names: &[&str]) -> AcmeNames {
        AcmeNames(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_has_no_certificate_yet_is_noted_and_asking_twice_at_once_is_refused() {
        let book = Book::new(AcmeMetrics::register(&Registry::new()).unwrap());
        let wake = book.open(&names(&["shop.test", "www.shop.test"]));
        for name in ["a.test", "b.test", "c.test"] {
            book.open(&names(&[name]));
        }

        let note = book.note().unwrap();
        let asked = [book.ask("WWW.shop.test"), book.ask("shop.test"), book.ask("other.test")];

        assert_eq!(note, "no certificate was issued yet for shop.test, a.test, b.test and 1 more");
        assert_eq!(asked, [Asked::Ordering, Asked::TooSoon, Asked::Unknown]);
        assert!(wake.take() && !wake.take());
    }

    #[test]
    fn expiry_is_told_for_each_name_and_forgotten_with_it() {
        let registry = Registry::new();
        let book = Book::new(AcmeMetrics::register(&registry).unwrap());
        let (a, b) = (names(&["a.test"]), names(&["b.test", "www.b.test"]));
        book.open(&a);
        book.open(&b);
        let life = Some((Timestamp::UNIX_EPOCH, Timestamp::from_second(77).unwrap()));

        book.write(&b, State { life, ..State::default() });
        book.retain(|names| *names == b);

        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("tidegate_certificate_expiry_seconds{name=\"www.b.test\"} 77"), "{text}");
        assert!(!text.contains("a.test"), "{text}");
    }
}
