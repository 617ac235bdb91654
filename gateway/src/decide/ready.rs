//! What `compile` prepares so that deciding needs no look-ups: made once for each snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use rand::Rng;
use smallvec::SmallVec;
use tidegate_model::desired::{Desired, Methods, Route, Shadow};

use super::Connection;
use super::access::AccessList;
use super::client::ClientFinder;
use super::cors::CorsReady;
use super::nets::NetSet;
use crate::guard::challenge::Challenger;
use crate::guard::dyed;
use crate::guard::lists::Lists;
use crate::guard::token::Keys;
use crate::guard::visitor::Manners;
use crate::tls::{ClientPolicies, PolicyId};

/// What is asked of every request, before its route is known.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// Finds the visitor's address.
    pub client: ClientFinder,
    /// The global lists.
    pub access: AccessList,
    /// Who needn't show anything, and how others are asked to.
    pub manners: Manners,
    /// Keys that marks of dyed traffic are signed with; `None`: no mark is believed.
    pub dyed: Option<dyed::Keys>,
    /// Whom listeners ask for a certificate, by name of the listener; an entry for each that has TLS.
    clients: HashMap<String, Arc<ClientPolicies>>,
    /// Whether any of them asks anybody.
    asks: bool,
}

impl Entrance {
    /// Prepares the global settings of `desired`, with the files that it names in `lists`; `keys` sign what visitors
    /// carry.
    pub fn new(desired: &Desired, lists: &Lists, keys: Option<&Keys>) -> Self {
        let challenger = desired.challenge.as_ref().zip(keys).map(|(spec, keys)| Challenger::new(spec, keys.clone()));
        Self {
            client: ClientFinder::new(&desired.client_ip),
            access: AccessList::new(&desired.access, lists),
            manners: Manners { exempt: NetSet::new(&desired.exempt), challenger },
            dyed: None,
            clients: HashMap::new(),
            asks: false,
        }
    }

    /// The same with rules about client certificates, which were read from files.
    pub fn with_clients(self, clients: HashMap<String, Arc<ClientPolicies>>) -> Self {
        let asks = clients.values().any(|policies| !policies.is_empty());
        Self { clients, asks, ..self }
    }

    /// The same with the keys that marks of dyed traffic are signed with.
    pub fn with_dyed(self, dyed: Option<dyed::Keys>) -> Self {
        Self { dyed, ..self }
    }

    /// Whether a request for `host` must come on another connection: under the name that this one was made for, the
    /// client wasn't asked for the certificate that `host` requires (RFC 9110 §15.5.20).
    pub fn misdirects(&self, connection: &Connection, host: &str) -> bool {
        let Some(tls) = &connection.tls else { return false };
        if !self.asks && tls.policy.is_open() {
            return false;
        }
        let Some(policies) = self.clients.get(&*connection.listener) else {
            // The listener is gone, and its rules with it. Whoever came before there were any may go on.
            return tls.policy != PolicyId::Open;
        };
        let required = policies.id(Some(host));
        !required.is_open() && required != tls.policy
    }
}

/// What a route asks of a request, besides matching it.
#[derive(Clone, Debug)]
pub struct RouteRules {
    /// The route's own lists.
    pub access: AccessList,
    /// Its cross-origin policy.
    pub cors: Option<CorsReady>,
}

impl RouteRules {
    /// Prepares `route`, with the files that it names in `lists`.
    pub fn new(route: &Route, lists: &Lists) -> Self {
        Self { access: AccessList::new(&route.access, lists), cors: route.cors.as_ref().map(CorsReady::new) }
    }
}

/// Which shadows copy this request, and how often: 250 % are two copies, and a third for every second request.
pub(super) fn copies(shadows: &[Shadow], method: &Method, dice: &mut impl Rng) -> SmallVec<[(usize, u32); 1]> {
    let times = |shadow: &Shadow| {
        if !allows(&shadow.methods, method) {
            return 0;
        }
        let (whole, part) = (shadow.sample / 10_000, shadow.sample % 10_000);
        whole + u32::from(part > 0 && dice.random_range(0..10_000) < part)
    };
    shadows.iter().map(times).enumerate().filter(|&(_, times)| times > 0).collect()
}

/// Whether `methods` holds `method`.
pub fn allows(methods: &Methods, method: &Method) -> bool {
    match methods {
        Methods::Any => true,
        Methods::Safe => method.is_safe(),
        Methods::Idempotent => method.is_idempotent(),
        Methods::Only(names) => names.iter().any(|name| name == method.as_str()),
    }
}
