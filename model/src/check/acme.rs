//! Certificates that are ordered: what the authority will ask for, checked before it is asked.

use std::collections::HashMap;

use super::Checker;
use crate::config::{Acme, At, Many};
use crate::desired::{self, AcmeChallengeKind, AcmeNames};
use crate::diagnostic::Diagnostic;
use crate::literal::{CertName, LETS_ENCRYPT};
use crate::problems::Span;

/// Names of one certificate. Public authorities take no more (Let's Encrypt's bound).
const NAMES_MAX: usize = 100;

/// The port at which an authority asks for HTTP-01 (RFC 8555 §8.3).
const HTTP_PORT: u16 = 80;

/// The port at which an authority asks for TLS-ALPN-01 (RFC 8737 §3).
const TLS_PORT: u16 = 443;

/// Certificates that were named so far.
#[derive(Default)]
pub(super) struct Ordered {
    /// Name → the whole list it stood in, and where.
    by_name: HashMap<String, (Vec<String>, Span)>,
}

impl Checker<'_, '_> {
    /// The section, as far as it doesn't depend on listeners.
    pub(super) fn acme(&mut self, acme: &Acme) -> desired::Acme {
        let accepted = acme.accept_terms.as_ref().is_some_and(|accept| accept.value.0);
        if !accepted && !acme.damaged {
            let directory = acme.directory.as_ref().map_or(LETS_ENCRYPT, |url| url.value.0.as_str());
            let diagnostic =
                Diagnostic::error("terms-not-accepted", "the authority's terms of service aren't accepted")
                    .help("read them, and write accept_terms: true")
                    .note(format!("an account is opened in your name at {directory}, which names its terms"));
            let span = acme.accept_terms.as_ref().map_or(acme.span, |accept| accept.span);
            self.problems.add(span, "accept_terms: true is missing here", diagnostic);
        }
        self.places.push(("acme.store".into(), acme.store.span));
        if let Some(ca) = &acme.ca {
            self.places.push(("acme.ca".into(), ca.span));
        }
        if let Some(challenge) = &acme.challenge {
            self.refuse_twins(challenge.items.iter().map(|kind| (&kind.value.0, kind.span)), "challenge");
            if challenge.items.is_empty() && !acme.damaged {
                let diagnostic = Diagnostic::error("no-challenges", "no challenge is left to show that a name is ours")
                    .help("write [http-01, tls-alpn-01], or leave the key out");
                self.problems.add(challenge.span, "this list is empty", diagnostic);
            }
        }
        let kinds = acme.challenge.iter().flat_map(|many| &many.items).map(|kind| kind.value.0);
        desired::Acme {
            directory: acme.directory.as_ref().map_or_else(|| LETS_ENCRYPT.into(), |url| url.value.0.clone()),
            contact: acme.contact.iter().flat_map(|many| &many.items).map(|contact| contact.value.0.clone()).collect(),
            store: self.resolve(&acme.store.value.0, acme.store.span),
            ca: acme.ca.as_ref().map(|ca| self.resolve(&ca.value.0, ca.span)),
            challenges: kinds.collect(),
            renew_before: acme.renew_before.as_ref().map(|time| time.value.0),
        }
    }

    /// The names of a certificate that listener `label` wants ordered.
    pub(super) fn acme_names(
        &mut self,
        label: &str,
        names: &Many<At<CertName>>,
        section: Option<&Acme>,
        ordered: &mut Ordered,
    ) -> AcmeNames {
        if section.is_none() {
            let message = format!("listener \"{label}\" wants a certificate ordered, but there is no acme section");
            let diagnostic = Diagnostic::error("no-acme", message)
                .help("write at the top level: acme: {accept_terms: true, store: /var/lib/tidegate/acme}");
            self.problems.add(names.span, "nobody is named to order it from", diagnostic);
        }
        if names.items.is_empty() {
            let diagnostic =
                Diagnostic::error("no-names", format!("listener \"{label}\" has a certificate for no name"))
                    .help("write acme: [shop.example.com]");
            self.problems.add(names.span, "this list is empty", diagnostic);
        }
        if let Some(first) = names.items.get(NAMES_MAX) {
            let message = format!("a certificate of listener \"{label}\" has more than {NAMES_MAX} names");
            let diagnostic = Diagnostic::error("too-many-names", message).help("make two certificates of it");
            self.problems.add(first.span, format!("this is number {}", NAMES_MAX + 1), diagnostic);
        }
        self.refuse_twins(names.items.iter().map(|name| (&name.value, name.span)), "name");
        let list: Vec<String> = names.items.iter().map(|name| name.value.0.clone()).collect();
        for name in &names.items {
            self.acme_name(name, &list, section, ordered);
        }
        AcmeNames(list)
    }

    fn acme_name(&mut self, name: &At<CertName>, list: &[String], section: Option<&Acme>, ordered: &mut Ordered) {
        let text = &name.value.0;
        if section.is_some_and(|section| section.directory.is_none() && !section.damaged) && !is_public(text) {
            let message = format!("Let's Encrypt can't certify \"{text}\"");
            let diagnostic = Diagnostic::error("not-a-public-name", message)
                .help("name your own authority by acme.directory, or bring a certificate as files");
            self.problems.add(name.span, "this name doesn't exist on the internet", diagnostic);
        }
        match ordered.by_name.get(text) {
            Some((other, first)) if other != list => {
                let message = format!("\"{text}\" is in two certificates that are ordered");
                let diagnostic = Diagnostic::error("duplicate-certificate-name", message)
                    .help("order it once; several listeners may repeat the same list of names");
                self.problems.add_with(name.span, "again here", (*first, "first here"), diagnostic);
            }
            Some(_) => {}
            None => drop(ordered.by_name.insert(text.clone(), (list.to_owned(), name.span))),
        }
    }

    /// What only shows when the listeners are known: which challenges can be answered, and whether anything is ordered.
    pub(super) fn acme_and_listeners(
        &mut self,
        written: &Acme,
        acme: &mut desired::Acme,
        listeners: &[desired::Listener],
    ) {
        let ordered = listeners
            .iter()
            .filter_map(|listener| listener.tls.as_ref())
            .any(|tls| tls.certificates.iter().any(|source| matches!(source, desired::CertificateSource::Acme(_))));
        if !ordered {
            if self.problems.errors() == 0 {
                let diagnostic = Diagnostic::warning("unused", "the acme section is used by no listener")
                    .help("write certificates: [{acme: [shop.example.com]}] in a listener");
                self.problems.add(written.span.part(0, 1), "nothing is ordered", diagnostic);
            }
            return;
        }
        let listens = |port: u16, tls: bool| {
            listeners.iter().any(|listener| listener.bind.port() == port && listener.tls.is_some() == tls)
        };
        let reachable = |kind: &AcmeChallengeKind| match kind {
            AcmeChallengeKind::Http01 => listens(HTTP_PORT, false),
            AcmeChallengeKind::TlsAlpn01 => listens(TLS_PORT, true),
        };
        const NAT: &str = "listen there, or lead that port here from in front";
        match &written.challenge {
            Some(challenge) => {
                for kind in challenge.items.iter().filter(|kind| !reachable(&kind.value.0)) {
                    let (name, where_asked) = match kind.value.0 {
                        AcmeChallengeKind::Http01 => ("http-01", "no plain listener is on port 80"),
                        AcmeChallengeKind::TlsAlpn01 => ("tls-alpn-01", "no TLS listener is on port 443"),
                    };
                    let message = format!("the authority asks for {name} where this gateway doesn't listen");
                    let diagnostic = Diagnostic::warning("challenge-out-of-reach", message).help(NAT);
                    self.problems.add(kind.span, where_asked, diagnostic);
                }
            }
            None => {
                acme.challenges = vec![AcmeChallengeKind::Http01, AcmeChallengeKind::TlsAlpn01];
                if acme.challenges.iter().any(reachable) {
                    acme.challenges.retain(reachable);
                } else {
                    let message = "the authority asks on ports 80 and 443, where this gateway doesn't listen";
                    let diagnostic = Diagnostic::warning("challenge-out-of-reach", message).help(NAT);
                    self.problems.add(written.span.part(0, 1), "no listener for http-01 or tls-alpn-01", diagnostic);
                }
            }
        }
    }
}

/// Whether a name can exist on the internet: it has a dot, and isn't under a special-use domain (RFC 6761, RFC 6762,
/// RFC 8375, RFC 9476, ICANN's `internal`).
fn is_public(name: &str) -> bool {
    const SPECIAL: [&str; 7] = ["local", "localhost", "internal", "test", "invalid", "alt", "home.arpa"];
    let under = |domain: &&str| name.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    name.contains('.') && !SPECIAL.iter().any(under)
}
