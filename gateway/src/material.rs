//! Reads what a configuration refers to outside itself: listener certificates, authorities and client
//! certificates for upstream TLS. What can't be read is told with its place in the configuration.
//!
//! # Not here
//!
//! Names of endpoints are looked up in `resolve`.

use std::path::Path;
use std::sync::Arc;

use tidegate_model::check::Places;
use tidegate_model::desired::{Acme, CertificateSource, Desired, Dyed, Listener, Service};
use tidegate_model::diagnostic::{Diagnostic, Severity};
use tidegate_model::mark;

use crate::acme;
use crate::carry::UpstreamTlsReady;
use crate::guard::dyed;
use crate::guard::token::Keys;
use crate::tls::{CertTable, ClientPolicies, Slots, TicketSecret, TlsFiles, TlsProblem};

/// Everything that was read.
#[derive(Debug)]
pub struct Files {
    /// Those of listeners.
    pub tls: TlsFiles,
    /// By index of the service; `Some` where it has TLS.
    pub upstream_tls: Vec<Option<Arc<UpstreamTlsReady>>>,
    /// Signs what visitors carry, where the configuration names a secret.
    pub keys: Option<Keys>,
    /// Keys that marks of dyed traffic are signed with, where the configuration names any.
    pub dyed: Option<dyed::Keys>,
    /// What was accepted, but will be trouble: an expired certificate.
    pub warnings: Vec<Diagnostic>,
}

/// Reads every file that `desired` needs to be served. Certificates that are ordered are in `slots`; where one isn't,
/// a placeholder stands for it.
///
/// # Errors
///
/// A diagnostic for each file that can't be used.
pub fn read(desired: &Desired, places: &Places, slots: &Slots) -> Result<Files, Vec<Diagnostic>> {
    let mut told = Vec::new();
    let tls = TlsFiles {
        certificates: desired.listeners.iter().map(|listener| table(listener, places, slots, &mut told)).collect(),
        clients: desired.listeners.iter().filter_map(|listener| clients(listener, places, &mut told)).collect(),
        ticket_secret: desired.tls.ticket_secret.as_deref().and_then(|file| ticket_secret(file, places, &mut told)),
    };
    let upstream_tls = desired.services.iter().map(|service| upstream(service, places, &mut told)).collect();
    told.extend(desired.acme.as_ref().into_iter().flat_map(|acme| authority(acme, places)));
    let keys = desired.challenge.as_ref().and_then(|challenge| keys(challenge.secret.as_deref()?, places, &mut told));
    let dyed = desired.dyed.as_ref().map(|spec| dyed_keys(spec, places, &mut told));
    if told.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(told);
    }
    Ok(Files { tls, upstream_tls, keys, dyed, warnings: told })
}

fn table(listener: &Listener, places: &Places, slots: &Slots, told: &mut Vec<Diagnostic>) -> Option<CertTable> {
    let tls = listener.tls.as_ref()?;
    let place = |file: &Path| {
        tls.certificates.iter().enumerate().find_map(|(i, source)| {
            let CertificateSource::Files(files) = source else { return None };
            let which = match file {
                _ if files.cert == file => "cert",
                _ if files.ocsp.as_deref() == Some(file) => "ocsp",
                _ => "key",
            };
            (files.cert == file || files.key == file || files.ocsp.as_deref() == Some(file))
                .then(|| places.of(&format!("listeners.{}.certificates.{i}.{which}", listener.name)))?
        })
    };
    let tell = |severity, problem: &TlsProblem| {
        let message = format!("listener \"{}\": {}", listener.name, problem.file.display());
        let diagnostic = match severity {
            Severity::Error => Diagnostic::error("unusable-certificate", message),
            Severity::Warning => Diagnostic::warning("certificate-dates", message),
        };
        diagnostic.maybe_at(place(&problem.file), problem.what.clone()).help(problem.help.clone())
    };
    match CertTable::load(tls, slots) {
        Ok(table) => {
            told.extend(table.warnings().iter().map(|problem| tell(Severity::Warning, problem)));
            Some(table)
        }
        Err(problems) => {
            told.extend(problems.iter().map(|problem| tell(Severity::Error, problem)));
            None
        }
    }
}

/// Whom a listener asks for a certificate, with its name.
fn clients(listener: &Listener, places: &Places, told: &mut Vec<Diagnostic>) -> Option<(String, Arc<ClientPolicies>)> {
    let tls = listener.tls.as_ref()?;
    let tell = |severity, problem: &TlsProblem| {
        let place = tls.clients.iter().enumerate().find_map(|(i, auth)| {
            let which = if auth.ca == problem.file { "ca" } else { "crl" };
            let named = auth.ca == problem.file || auth.crl.as_ref() == Some(&problem.file);
            named.then(|| places.of(&format!("listeners.{}.client_certificates.{i}.{which}", listener.name)))?
        });
        let message = format!("listener \"{}\": {}", listener.name, problem.file.display());
        let diagnostic = match severity {
            Severity::Error => Diagnostic::error("unusable-authority", message),
            Severity::Warning => Diagnostic::warning("old-revocations", message),
        };
        diagnostic.maybe_at(place, problem.what.clone()).help(problem.help.clone())
    };
    let mut warnings = Vec::new();
    let loaded = ClientPolicies::load(tls, &mut warnings);
    told.extend(warnings.iter().map(|problem| tell(Severity::Warning, problem)));
    match loaded {
        Ok(policies) => Some((listener.name.clone(), Arc::new(policies))),
        Err(problems) => {
            told.extend(problems.iter().map(|problem| tell(Severity::Error, problem)));
            None
        }
    }
}

fn ticket_secret(file: &Path, places: &Places, told: &mut Vec<Diagnostic>) -> Option<TicketSecret> {
    TicketSecret::load(file)
        .map_err(|problem| {
            let message = format!("{} can't be used as ticket secret", problem.file.display());
            told.push(
                Diagnostic::error("unusable-secret", message)
                    .maybe_at(places.of("tls.ticket_secret"), problem.what)
                    .help(problem.help),
            );
        })
        .ok()
}

/// What is wrong with the files that the acme section names.
fn authority(acme: &Acme, places: &Places) -> Vec<Diagnostic> {
    let mut told = Vec::new();
    if let Some(ca) = &acme.ca
        && let Err(what) = acme::authorities(ca)
    {
        let diagnostic = Diagnostic::error("unusable-file", format!("acme can't use {}", ca.display()));
        told.push(
            diagnostic.maybe_at(places.of("acme.ca"), what).help("check the path, its permissions, and that it is PEM"),
        );
    }
    if acme.store.exists() && !acme.store.is_dir() {
        let diagnostic = Diagnostic::error("bad-store", format!("{} isn't a folder", acme.store.display()));
        told.push(
            diagnostic.maybe_at(places.of("acme.store"), "it is a file").help("name a folder; it is made if need be"),
        );
    }
    told
}

fn keys(file: &Path, places: &Places, told: &mut Vec<Diagnostic>) -> Option<Keys> {
    let (what, help) = match std::fs::read_to_string(file) {
        Ok(text) => match Keys::read(&text) {
            Some(keys) => return Some(keys),
            None => {
                ("no secret of at least 16 characters in each line".into(), "`openssl rand -hex 32` makes a good one")
            }
        },
        Err(error) => (error.to_string(), "check the path and its permissions"),
    };
    told.push(
        Diagnostic::error("unusable-file", format!("the challenge can't use {}", file.display()))
            .maybe_at(places.of("challenge.secret"), what)
            .help(help),
    );
    None
}

/// The keys that marks of dyed traffic are signed with; those that can't be used are left out, and told.
pub fn dyed_keys(spec: &Dyed, places: &Places, told: &mut Vec<Diagnostic>) -> dyed::Keys {
    let texts = spec.keys.iter().enumerate().filter_map(|(at, file)| {
        let (what, help) = match std::fs::read_to_string(file) {
            Ok(text) if mark::key(&text).is_some() => return Some(text),
            Ok(_) => (
                "no single line of at least 16 characters".into(),
                "`tidegate mark key` makes a good one; one key a file",
            ),
            Err(error) => (error.to_string(), "check the path and its permissions"),
        };
        told.push(
            Diagnostic::error("unusable-file", format!("dyed.keys can't use {}", file.display()))
                .maybe_at(places.of(&format!("dyed.keys.{at}")), what)
                .help(help),
        );
        None
    });
    let texts: Vec<String> = texts.collect();
    dyed::Keys::new(texts.iter().filter_map(|text| mark::key(text)))
}

fn upstream(service: &Service, places: &Places, told: &mut Vec<Diagnostic>) -> Option<Arc<UpstreamTlsReady>> {
    let tls = service.tls.as_ref()?;
    match UpstreamTlsReady::load(tls) {
        Ok(ready) => Some(Arc::new(ready)),
        Err(error) => {
            let key = match &tls.client {
                Some(client) if client.cert == error.file => "client.cert",
                Some(client) if client.key == error.file => "client.key",
                _ => "ca",
            };
            let message = format!("service \"{}\" can't use {}", service.name, error.file.display());
            told.push(
                Diagnostic::error("unusable-file", message)
                    .maybe_at(places.of(&format!("services.{}.tls.{key}", service.name)), error.what)
                    .help("check the path, its permissions, and that it is PEM"),
            );
            None
        }
    }
}
