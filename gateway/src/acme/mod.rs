//! Certificates by themselves (ACME, RFC 8555): ordered, renewed, shared by gateways over one folder.
//!
//! ```text
//! desired ──▶ Acme ──▶ a Keeper for each certificate: look → plan → order → look …
//!                          │ store (files, locks)        │ authority
//!                          ▼                             ▼
//!                        Slot in the certificate tables  Challenges, asked by doors and carriers
//! ```
//!
//! # Invariants
//!
//! - A listener never waits for an authority: until the first certificate comes, a self-signed placeholder is shown, and
//!   only for names that nothing else covers.
//! - Of all gateways that share a store one at a time orders a certificate; the others take it over.
//! - A certificate in force is only ever replaced by a good one: what can't be read is reported, and ordered anew.
//! - The authority is never hammered: pauses grow, are kept over restarts, and are at least what it asked for.
//!
//! # Not here
//!
//! Choosing a certificate for a handshake is `tls`. DNS-01, and so wildcard names, isn't there.

mod account;
mod book;
mod challenge;
mod client;
mod failure;
mod keeper;
mod metrics;
mod order;
mod plan;
mod store;

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_model::desired::{self, AcmeNames, CertificateSource, Desired};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

pub use book::{Asked, Book, Row, Source};
pub use challenge::{ACME_TLS, Challenges};
pub use client::authorities;
pub use metrics::AcmeMetrics;

use crate::tls::{FileFacts, Slot, Slots, placeholder};
use keeper::Keeper;
use order::Desk;
use store::CertId;

/// Orders at once, for all certificates together. Beyond it a certificate waits its turn.
const ORDERS: usize = 4;

/// See the module.
pub struct Acme {
    control: Handle,
    challenges: Challenges,
    book: Book,
    metrics: AcmeMetrics,
    orders: Arc<Semaphore>,
    /// How the certificates below are ordered.
    settings: Option<desired::Acme>,
    kept: HashMap<AcmeNames, Kept>,
}

/// A certificate that is looked after.
struct Kept {
    slot: Arc<Slot>,
    task: AbortHandle,
}

impl Acme {
    /// Looks after nothing yet. Orders run on `control`.
    pub fn new(control: Handle, metrics: AcmeMetrics) -> Self {
        let challenges = Challenges::new(metrics.lookups_refused());
        let book = Book::new(metrics.clone());
        let orders = Arc::new(Semaphore::new(ORDERS));
        Self { control, challenges, book, metrics, orders, settings: None, kept: HashMap::new() }
    }

    /// Pending challenges, for whoever is asked for them.
    pub fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// What is known about all certificates.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Places for the certificates that `desired` wants ordered: those that are looked after already, and new ones with
    /// what the store holds. Changes nothing; blocks to read the store.
    pub fn slots(&self, desired: &Desired) -> Slots {
        let mut slots = Slots::default();
        let Some(settings) = &desired.acme else { return slots };
        let store = store::Store::at(&settings.store, &settings.directory);
        for names in names(desired) {
            let slot = match self.kept.get(names) {
                Some(kept) => Arc::clone(&kept.slot),
                None => {
                    // Without a placeholder the name alone fails; the table would say the same.
                    let Ok(placeholder) = placeholder(names) else { continue };
                    let slot = Arc::new(Slot::awaiting(placeholder));
                    if let Some(key) = keeper::at_start(&store, names) {
                        slot.put(key);
                    }
                    slot
                }
            };
            slots.0.insert(names.clone(), slot);
        }
        slots
    }

    /// Looks after the certificates of `desired` from now on; `slots` are what [`Acme::slots`] gave for it, `files` the
    /// certificates that were read from files.
    pub fn apply(&mut self, desired: &Desired, slots: &Slots, files: Vec<FileFacts>) {
        self.book.files(files);
        if self.settings != desired.acme {
            self.kept.drain().for_each(|(_, kept)| kept.task.abort());
            self.settings = desired.acme.clone();
        }
        let wanted: Vec<&AcmeNames> = names(desired).collect();
        self.kept.retain(|names, kept| {
            let stays = wanted.contains(&names);
            if !stays {
                kept.task.abort();
            }
            stays
        });
        self.book.retain(|names| wanted.contains(&names));
        let Some(settings) = &self.settings else {
            self.challenges.look_in(None);
            return;
        };
        let mut desk = None;
        for names in wanted {
            let Some(slot) = slots.0.get(names).filter(|_| !self.kept.contains_key(names)) else { continue };
            // Certificates that are added later get a desk of their own: it opens the same account.
            let desk = desk.get_or_insert_with(|| {
                let desk = Arc::new(Desk::new(settings.clone(), self.challenges.clone()));
                self.challenges.look_in(Some(desk.store.clone()));
                desk
            });
            let keeper = Keeper {
                id: CertId::of(names),
                names: names.clone(),
                slot: Arc::clone(slot),
                desk: Arc::clone(desk),
                wake: self.book.open(names),
                book: self.book.clone(),
                metrics: self.metrics.clone(),
                orders: Arc::clone(&self.orders),
            };
            let task = self.control.spawn(keeper.run()).abort_handle();
            self.kept.insert(names.clone(), Kept { slot: Arc::clone(slot), task });
        }
    }
}

impl Drop for Acme {
    fn drop(&mut self) {
        self.kept.values().for_each(|kept| kept.task.abort());
    }
}

/// The certificates that are ordered; one that several listeners show comes several times.
fn names(desired: &Desired) -> impl Iterator<Item = &AcmeNames> {
    let sources =
        desired.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| &tls.certificates);
    sources.filter_map(|source| match source {
        CertificateSource::Acme(names) => Some(names),
        CertificateSource::Files(_) => None,
    })
}
