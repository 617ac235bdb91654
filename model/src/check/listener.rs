//! Listeners: protocols, certificates, redirects.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::acme::Ordered;
use super::names::Names;
use super::{Checker, networks};
use crate::config::{
    Acme, Admin, At, Certificate, ClientCertificates, Http2, Listener, ListenerCertificate, ListenerTimeouts,
    TlsSettings,
};
use crate::desired::{
    self, CertificateFiles, CertificateSource, ClientAuth, ClientVerify, Frequency, HostPattern, Http2Bounds,
    ListenerGuard, ListenerTls, Purpose,
};
use crate::diagnostic::Diagnostic;
use crate::literal::{FilePath, Name, Rate, Size, Speaks, Time};
use crate::problems::Span;

impl Checker<'_, '_> {
    pub(super) fn listeners(
        &mut self,
        names: &Names<'_, Listener>,
        admin: Option<&Admin>,
        acme: Option<&Acme>,
    ) -> Vec<desired::Listener> {
        let mut ordered = Ordered::default();
        let mut bound: HashMap<SocketAddr, Span> = HashMap::new();
        if let Some(admin) = admin {
            bound.insert(admin.bind.value.0, admin.bind.span);
        }
        let mut ready = Vec::new();
        for (name, listener) in names.entries() {
            let Some(listener) = listener else { continue };
            let address = listener.bind.value.0;
            if let Some(first) = bound.insert(address, listener.bind.span).filter(|_| address.port() != 0) {
                let diagnostic = Diagnostic::error("duplicate-address", format!("two listeners bind {address}"))
                    .help("give one of them another port; routes tell hosts apart, so one listener is often enough");
                self.problems.add_with(listener.bind.span, "again here", (first, "first here"), diagnostic);
            }
            ready.push(self.listener(name, listener, names, acme, &mut ordered));
        }
        self.unguarded(names, &ready);
        ready
    }

    /// Warns of a listener by which requests come past the rules about client certificates of another.
    fn unguarded(&mut self, names: &Names<'_, Listener>, ready: &[desired::Listener]) {
        let asks = |listener: &&desired::Listener| listener.tls.as_ref().is_some_and(|tls| !tls.clients.is_empty());
        let Some(guarded) = ready.iter().find(asks) else { return };
        for (name, listener) in names.entries() {
            let Some(listener) = listener else { continue };
            if listener.redirect_to.is_some() || listener.client_certificates.is_some() {
                continue;
            }
            let message = format!(
                "listener \"{}\" asks for client certificates, and listener \"{}\" routes the same hosts without",
                guarded.name, name.value.0
            );
            let diagnostic = Diagnostic::warning("no-client-certificates", message)
                .help("add client_certificates or redirect_to here, or bind it where visitors can't reach it");
            self.problems.add(listener.bind.span, "clients come in here without a certificate", diagnostic);
        }
    }

    fn listener(
        &mut self,
        name: &At<Name>,
        listener: &Listener,
        names: &Names<'_, Listener>,
        acme: Option<&Acme>,
        ordered: &mut Ordered,
    ) -> desired::Listener {
        let label = &name.value.0;
        self.places.push((format!("listeners.{label}.bind"), listener.bind.span));
        let certificates: Vec<CertificateSource> = listener
            .certificates
            .iter()
            .flat_map(|many| &many.items)
            .enumerate()
            .filter_map(|(at, certificate)| self.listener_certificate(label, at, certificate, acme, ordered))
            .collect();
        // A refused certificate still says that TLS was meant.
        let written = listener.certificates.as_ref().is_some_and(|many| !many.items.is_empty());
        let tls = written || (listener.certificates.is_some() && listener.damaged);
        if let Some(written) = listener.certificates.as_ref().filter(|_| !tls) {
            let diagnostic =
                Diagnostic::error("no-certificates", format!("listener \"{label}\" has an empty list of certificates"))
                    .help("add {cert: FILE, key: FILE}, or leave the key out for a plain listener");
            self.problems.add(written.span, "there is none", diagnostic);
        }
        if let Some(oldest) = listener.tls_min.as_ref().filter(|_| !tls && !listener.damaged) {
            let diagnostic = Diagnostic::error(
                "tls-on-plain-listener",
                format!("listener \"{label}\" has a TLS version but no certificates"),
            )
            .help("add certificates, or remove this key");
            self.problems.add(oldest.span, "this listener doesn't speak TLS", diagnostic);
        }
        if let Some(clients) = listener.client_certificates.as_ref().filter(|_| !tls && !listener.damaged) {
            let diagnostic = Diagnostic::error(
                "tls-on-plain-listener",
                format!("listener \"{label}\" asks for client certificates but has none itself"),
            )
            .help("add certificates, or remove this key");
            self.problems.add(clients.span, "this listener doesn't speak TLS", diagnostic);
        }
        let clients = self.clients(label, listener);
        let (http1, http2) = self.protocols(label, listener, tls);
        let only_tls13 = listener.tls_min.as_ref().is_some_and(|oldest| oldest.value.0);
        desired::Listener {
            name: label.clone(),
            bind: listener.bind.value.0,
            purpose: self.purpose(label, listener, names),
            tls: tls.then_some(ListenerTls { certificates, only_tls13, clients }),
            http1,
            http2,
            proxy_protocol: networks(listener.proxy_protocol.as_ref().map(|proxy| &proxy.from)),
            guard: guard(listener),
        }
    }

    /// `None` when it is neither files nor names; that has been reported.
    fn listener_certificate(
        &mut self,
        label: &str,
        at: usize,
        written: &ListenerCertificate,
        acme: Option<&Acme>,
        ordered: &mut Ordered,
    ) -> Option<CertificateSource> {
        let key = format!("listeners.{label}.certificates.{at}");
        let missing = match (&written.cert, &written.key, &written.acme) {
            (Some(cert), Some(private), None) => {
                let ocsp = written.ocsp.as_ref().map(|ocsp| {
                    self.places.push((format!("{key}.ocsp"), ocsp.span));
                    self.resolve(&ocsp.value.0, ocsp.span)
                });
                let files = CertificateFiles { ocsp, ..self.certificate_files(cert, private, &key) };
                return Some(CertificateSource::Files(files));
            }
            (None, None, Some(names)) if written.ocsp.is_none() => {
                self.places.push((format!("{key}.acme"), names.span));
                return Some(CertificateSource::Acme(self.acme_names(label, names, acme, ordered)));
            }
            (_, _, Some(names)) => {
                let message = format!("a certificate of listener \"{label}\" is both ordered and read from files");
                let diagnostic = Diagnostic::error("two-kinds-of-certificate", message)
                    .help("write {cert: FILE, key: FILE}, or {acme: [NAME]}");
                self.problems.add(names.span, "files are named too", diagnostic);
                return None;
            }
            // What seems to be missing may only be misspelt.
            _ if written.damaged => return None,
            (None, None, None) => "cert",
            (Some(_), None, None) => "key",
            (None, Some(_), None) => "cert",
        };
        let message = format!("listeners.{label}.certificates[{at}] lacks the key \"{missing}\"");
        let diagnostic = Diagnostic::error("missing-key", message)
            .help("write {cert: FILE, key: FILE}, or {acme: [NAME]} to have one ordered");
        self.problems.add(written.span, format!("\"{missing}\" is missing here"), diagnostic);
        None
    }

    pub(super) fn certificate(&mut self, certificate: &Certificate, key: &str) -> CertificateFiles {
        self.certificate_files(&certificate.cert, &certificate.key, key)
    }

    fn certificate_files(&mut self, cert: &At<FilePath>, private: &At<FilePath>, key: &str) -> CertificateFiles {
        self.places.push((format!("{key}.cert"), cert.span));
        self.places.push((format!("{key}.key"), private.span));
        CertificateFiles {
            cert: self.resolve(&cert.value.0, cert.span),
            key: self.resolve(&private.value.0, private.span),
            ocsp: None,
        }
    }

    /// Who must show a certificate. A name that stands in two entries is reported.
    fn clients(&mut self, label: &str, listener: &Listener) -> Vec<ClientAuth> {
        let mut seen: HashMap<Option<HostPattern>, Span> = HashMap::new();
        let mut ready = Vec::new();
        for (at, written) in listener.client_certificates.iter().flat_map(|many| &many.items).enumerate() {
            let names: Vec<_> = match &written.r#for {
                None => vec![(None, written.span)],
                Some(many) => many.items.iter().map(|name| (name.value.0.clone(), name.span)).collect(),
            };
            for (name, span) in &names {
                let Some(first) = seen.insert(name.clone(), *span) else { continue };
                let what = match name {
                    Some(HostPattern::Exact(host)) => format!("\"{host}\""),
                    Some(HostPattern::Wildcard(host)) => format!("\"*.{host}\""),
                    None => "every other name".into(),
                };
                let message = format!("listener \"{label}\" has two rules about client certificates for {what}");
                let diagnostic = Diagnostic::error("duplicate-name", message).help("keep one of them");
                self.problems.add_with(*span, "again here", (first, "first here"), diagnostic);
            }
            let names = names.into_iter().map(|(name, _)| name).collect();
            ready.push(self.client_auth(written, names, &format!("listeners.{label}.client_certificates.{at}")));
        }
        ready
    }

    pub(super) fn tls_settings(&mut self, written: &TlsSettings) -> desired::TlsSettings {
        let ticket_secret = written.ticket_secret.as_ref().map(|file| {
            self.places.push(("tls.ticket_secret".into(), file.span));
            self.resolve(&file.value.0, file.span)
        });
        desired::TlsSettings { ticket_secret }
    }

    fn client_auth(&mut self, written: &ClientCertificates, names: Vec<Option<HostPattern>>, key: &str) -> ClientAuth {
        self.places.push((format!("{key}.ca"), written.ca.span));
        if let Some(crl) = &written.crl {
            self.places.push((format!("{key}.crl"), crl.span));
        }
        ClientAuth {
            names,
            ca: self.resolve(&written.ca.value.0, written.ca.span),
            verify: written.verify.as_ref().map_or(ClientVerify::Require, |verify| verify.value.0),
            crl: written.crl.as_ref().map(|crl| self.resolve(&crl.value.0, crl.span)),
        }
    }

    /// Whether HTTP/1.1 and HTTP/2 are spoken.
    fn protocols(&mut self, label: &str, listener: &Listener, tls: bool) -> (bool, bool) {
        let Some(protocols) = &listener.protocols else { return (true, true) };
        self.refuse_twins(protocols.items.iter().map(|protocol| (&protocol.value, protocol.span)), "protocol");
        let (mut http1, mut http2) = (false, false);
        for protocol in &protocols.items {
            match (protocol.value.0, tls) {
                (Speaks::Http1, _) => http1 = true,
                (Speaks::H2, true) | (Speaks::H2c, false) => http2 = true,
                (Speaks::H2, false) => {
                    http2 = true;
                    if !listener.damaged {
                        let message = format!("listener \"{label}\" speaks h2 but has no certificates");
                        let diagnostic = Diagnostic::error("h2-without-tls", message)
                            .help("add certificates, or write h2c for HTTP/2 without TLS");
                        self.problems.add(protocol.span, "h2 needs TLS", diagnostic);
                    }
                }
                (Speaks::H2c, true) => {
                    http2 = true;
                    let message = format!("listener \"{label}\" has certificates, so it can't speak h2c");
                    let diagnostic = Diagnostic::error("h2c-with-tls", message).help("write h2");
                    self.problems.add(protocol.span, "h2c is HTTP/2 without TLS", diagnostic);
                }
            }
        }
        if protocols.items.is_empty() && !listener.damaged {
            let diagnostic = Diagnostic::error("no-protocols", format!("listener \"{label}\" speaks no protocol"))
                .help("write [h2, http/1.1], or leave the key out");
            self.problems.add(protocols.span, "this list is empty", diagnostic);
        }
        (http1, http2)
    }

    fn purpose(&mut self, label: &str, listener: &Listener, names: &Names<'_, Listener>) -> Purpose {
        let Some(to) = &listener.redirect_to else { return Purpose::Route };
        let who = format_args!("listener \"{label}\" redirects to");
        let Some((_, target)) = names.find((&to.value.0, to.span), who, self.problems) else { return Purpose::Route };
        let Some(target) = target else { return Purpose::Route };
        let refused = if to.value.0 == label {
            Some(("itself", "clients would come back for ever"))
        } else if target.certificates.is_none() && !target.damaged {
            Some(("a listener without TLS", "this listener has no certificates"))
        } else if target.redirect_to.is_some() {
            Some(("a listener that redirects too", "this listener routes nothing"))
        } else {
            None
        };
        if let Some((what, why)) = refused {
            let diagnostic = Diagnostic::error("bad-redirect", format!("listener \"{label}\" redirects to {what}"))
                .help("name a listener that has certificates and routes");
            self.problems.add(to.span, why, diagnostic);
        }
        Purpose::RedirectToTls { port: target.bind.value.0.port() }
    }
}

fn guard(listener: &Listener) -> ListenerGuard {
    let default = ListenerGuard::default();
    let timeouts = listener.timeouts.as_ref();
    let time = |written: fn(&ListenerTimeouts) -> &Option<At<Time>>, default| {
        timeouts.and_then(|timeouts| written(timeouts).as_ref()).map_or(default, |time| time.value.0)
    };
    let size = |written: &Option<At<Size>>, default| written.as_ref().map_or(default, |size| size.value.0);
    ListenerGuard {
        handshake_timeout: time(|timeouts| &timeouts.handshake, default.handshake_timeout),
        header_timeout: time(|timeouts| &timeouts.header, default.header_timeout),
        idle_timeout: time(|timeouts| &timeouts.idle, default.idle_timeout),
        body_timeout: time(|timeouts| &timeouts.body, default.body_timeout),
        send_timeout: time(|timeouts| &timeouts.send, default.send_timeout),
        min_body_rate: size(&listener.min_body_rate, default.min_body_rate),
        min_send_rate: size(&listener.min_send_rate, default.min_send_rate),
        max_header_bytes: size(&listener.max_header, default.max_header_bytes as u64) as usize,
        max_headers: listener.max_headers.as_ref().map_or(default.max_headers, |number| number.value.0 as usize),
        max_requests: listener.max_requests.as_ref().map_or(default.max_requests, |number| number.value.0 as u32),
        max_streams: listener.max_streams.as_ref().map_or(default.max_streams, |number| number.value.0 as u32),
        http2: listener.http2.as_ref().map_or(default.http2, http2),
    }
}

fn http2(written: &Http2) -> Http2Bounds {
    let default = Http2Bounds::default();
    let often = |written: &Option<At<Rate>>, default| {
        let frequency = |rate: &At<Rate>| Frequency { count: rate.value.count, window: rate.value.window };
        written.as_ref().map_or(default, frequency)
    };
    Http2Bounds {
        resets: often(&written.resets, default.resets),
        pings: often(&written.pings, default.pings),
        settings: often(&written.settings, default.settings),
        empty_data: often(&written.empty_data, default.empty_data),
        priorities: often(&written.priorities, default.priorities),
        window_updates: often(&written.window_updates, default.window_updates),
    }
}
