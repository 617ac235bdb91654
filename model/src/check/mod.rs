//! `Config → Desired`, or every diagnostic at once.
//!
//! # Invariants
//!
//! - A value without errors is proof: every [`Desired`] that comes out of here holds
//!   what its own documentation promises.
//! - Never panics, whatever the text (a property test holds this).
//!
//! # Not here
//!
//! Literals check themselves (`literal`); keys and types are checked where a section
//! is declared (`config`). Here is what values mean together.

mod acme;
mod action;
mod bounds;
mod dyed;
mod headers;
mod limit;
mod listener;
mod matches;
mod names;
mod route;
mod service;
mod shadow;

use std::collections::BTreeMap;
use std::path::{Path as FsPath, PathBuf};

use crate::config::decode::{Decode, Path};
use crate::config::{Access, At, Challenge, ClientIp, Config, Many, Paths, Recording, Switch};
use crate::desired::{self, Desired};
use crate::diagnostic::{Diagnostic, Place};
use crate::literal::{AccessLogTo, FilePath, Network};
use crate::problems::{Problems, Span};
use crate::yaml;
use names::Names;

/// One file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it was read from. Relative paths inside are resolved against its folder, so give an absolute path
    /// where the result shall not depend on the working directory.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// A configuration that was accepted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    /// What it means. The generation is left at 0; the source numbers it.
    pub desired: Desired,
    /// What was accepted, but probably isn't what was meant.
    pub warnings: Vec<Diagnostic>,
    /// Where things stand that only the world can refuse: ports, files, names to resolve.
    pub places: Places,
}

/// Where things stand in the configuration, so that a port in use or a missing
/// certificate is reported with its line.
///
/// Keys: `admin.bind`, `access_log`, `acme.store`, `acme.ca`, `challenge.secret`, `dyed.keys.0`, `tls.ticket_secret`,
/// `listeners.NAME.bind`, `listeners.NAME.certificates.0.cert`
/// and `….key`, `listeners.NAME.client_certificates.0.ca` and `….crl`, `access.deny_files.0`,
/// `routes.NAME.access.allow_files.0`, `services.NAME.tls.ca`, `services.NAME.tls.client.cert` and `….key`,
/// `services.NAME.versions.NAME.endpoints.0`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Places(BTreeMap<String, Place>);

impl Places {
    /// The place of `key`, if the operator wrote it.
    pub fn of(&self, key: &str) -> Option<Place> {
        self.0.get(key).cloned()
    }
}

/// Checks `files` together as one configuration.
///
/// # Errors
///
/// Every problem found, in file order. Warnings are among them.
pub fn check(files: &[SourceFile]) -> Result<Checked, Vec<Diagnostic>> {
    let mut problems = Problems::new(files);
    let config = read(&mut problems);
    let mut checker = Checker { problems: &mut problems, places: Vec::new() };
    let desired = checker.config(&config);
    let spans = checker.places;

    if problems.errors() > 0 {
        return Err(problems.finish());
    }
    let places = spans.into_iter().filter_map(|(key, span)| Some((key, problems.place(span)?))).collect();
    Ok(Checked { desired, places: Places(places), warnings: problems.finish() })
}

/// Reads every file, and merges them.
fn read(problems: &mut Problems<'_>) -> Vec<Config> {
    let mut configs = Vec::new();
    let mut failed = false;
    for file in 0..problems.files().len() {
        let before = problems.errors();
        let Some(root) = yaml::parse(file, problems) else {
            failed |= problems.errors() > before;
            continue;
        };
        if root.is_null() {
            continue;
        }
        match Config::decode(&root, &Path::ROOT, problems) {
            Some(config) => configs.push(config),
            None => failed = true,
        }
    }
    if configs.is_empty() && !failed {
        let start = Span { file: 0, line: 1, column: 1, length: 1 };
        let diagnostic = Diagnostic::error("empty", "there is no configuration here")
            .help("begin with \"version: 1\"; configs/minimal.yaml is a small example");
        problems.add(start, "nothing is written here", diagnostic);
    } else if !failed && configs.iter().all(|config| config.version.is_none() && !misspelt(config)) {
        let first = configs[0].span;
        let diagnostic = Diagnostic::error("missing-key", "the key \"version\" is missing at the top level")
            .help("begin with \"version: 1\"");
        problems.add(first.part(0, 1), "", diagnostic);
    }
    configs
}

/// Whether the version may be there under a misspelt key, or was refused.
fn misspelt(config: &Config) -> bool {
    config.damaged
}

/// Checks what values mean together.
struct Checker<'p, 'f> {
    problems: &'p mut Problems<'f>,
    places: Vec<(String, Span)>,
}

impl<'f> Checker<'_, 'f> {
    fn config(&mut self, configs: &[Config]) -> Desired {
        let listeners = Names::collect("listener", configs.iter().map(|config| &config.listeners), self.problems);
        let limits = Names::collect("limit", configs.iter().map(|config| &config.limits), self.problems);
        let services = Names::collect("service", configs.iter().map(|config| &config.services), self.problems);
        let routes: Vec<_> = configs.iter().flat_map(|config| config.routes.iter().flatten()).collect();
        let admin = self.only_one(
            "admin",
            configs.iter().filter_map(|config| Some((config.admin.as_ref()?, config.admin.as_ref()?.span))),
        );
        let acme = self.only_one(
            "acme",
            configs.iter().filter_map(|config| Some((config.acme.as_ref()?, config.acme.as_ref()?.span))),
        );
        let tls = self.only_one(
            "tls",
            configs.iter().filter_map(|config| Some((config.tls.as_ref()?, config.tls.as_ref()?.span))),
        );
        let client_ip = self.only_one(
            "client_ip",
            configs.iter().filter_map(|config| Some((config.client_ip.as_ref()?, config.client_ip.as_ref()?.span))),
        );
        let access = self.only_one(
            "access",
            configs.iter().filter_map(|config| Some((config.access.as_ref()?, config.access.as_ref()?.span))),
        );
        let paths = self.only_one(
            "paths",
            configs.iter().filter_map(|config| Some((config.paths.as_ref()?, config.paths.as_ref()?.span))),
        );
        let access_log = self.only_one(
            "access_log",
            configs.iter().filter_map(|config| Some((config.access_log.as_ref()?, config.access_log.as_ref()?.span))),
        );
        let bounds = self.only_one(
            "bounds",
            configs.iter().filter_map(|config| Some((config.bounds.as_ref()?, config.bounds.as_ref()?.span))),
        );

        let challenge = self.only_one(
            "challenge",
            configs.iter().filter_map(|config| {
                let challenge = config.challenge.as_ref()?;
                let span = if let Switch::On(challenge) = challenge { challenge.span } else { config.span };
                Some((challenge, span))
            }),
        );
        let dyed = self.only_one(
            "dyed",
            configs.iter().filter_map(|config| Some((config.dyed.as_ref()?, config.dyed.as_ref()?.span))),
        );
        let recording = self.only_one(
            "recording",
            configs.iter().filter_map(|config| Some((config.recording.as_ref()?, config.recording.as_ref()?.span))),
        );
        let redis = self.only_one(
            "redis",
            configs.iter().filter_map(|config| Some((config.redis.as_ref()?, config.redis.as_ref()?.span))),
        );
        let redis = redis.map(|redis| self.redis(redis));
        self.shared_needs_redis(&limits, redis.is_some());

        let everybody = client_ip.iter().flat_map(|client_ip| &client_ip.trusted).flat_map(|many| &many.items);
        for network in everybody.filter(|network| network.value.0.prefix_len() == 0) {
            let diagnostic =
                Diagnostic::warning("trusts-everybody", "client_ip takes everybody's word for their address")
                    .help("list the networks of your own proxies")
                    .note("visitors can choose their address, and so escape limits and bans");
            self.problems.add(network.span, "this is the whole internet", diagnostic);
        }
        let bounds = bounds.map(bounds::check).unwrap_or_default();
        let services_ready = self.services(&services);
        let (routes_ready, used) = self.routes(&routes, &services, &limits, &bounds);
        if dyed.is_none() && !configs.iter().any(|config| config.damaged) {
            self.dyed_needs_keys(&routes);
        }
        let path_rules = paths.map(check_paths).unwrap_or_default();
        self.paths_that_never_come(&routes, &routes_ready, &path_rules);
        let listeners_ready = self.listeners(&listeners, admin, acme);
        let acme_ready = acme.map(|written| {
            let mut ready = self.acme(written);
            self.acme_and_listeners(written, &mut ready, &listeners_ready);
            ready
        });
        let ready = Desired {
            generation: desired::Generation::default(),
            admin: admin.map(|admin| {
                self.places.push(("admin.bind".into(), admin.bind.span));
                admin.bind.value.0
            }),
            listeners: listeners_ready,
            acme: acme_ready,
            tls: tls.map(|tls| self.tls_settings(tls)).unwrap_or_default(),
            client_ip: client_ip.map(check_client_ip).unwrap_or_default(),
            paths: path_rules,
            access: self.access("access", access),
            limits: limits.entries().map(|(name, limit)| self.limit(name, limit)).collect(),
            services: services_ready,
            routes: routes_ready,
            access_log: access_log.map(|to| self.access_log(to)).unwrap_or_default(),
            exempt: match challenge {
                Some(Switch::On(challenge)) => networks(challenge.exempt.as_ref()),
                Some(Switch::Off) | None => Vec::new(),
            },
            challenge: self.challenge(challenge),
            redis,
            redact: recording.map(check_recording).unwrap_or_default(),
            dyed: dyed.map(|dyed| self.dyed(dyed)),
            bounds,
        };
        if self.problems.errors() == 0 {
            // Else whoever uses it may be what was refused.
            self.unused(&services, &limits, &used);
            self.nothing_to_do(configs, &ready);
        }
        ready
    }

    /// Warns of a configuration that serves nobody.
    fn nothing_to_do(&mut self, configs: &[Config], ready: &Desired) {
        let Some(start) = configs.first().map(|config| config.span) else { return };
        if ready.listeners.is_empty() {
            let diagnostic =
                Diagnostic::warning("no-listeners", "there are no listeners: nobody can reach this gateway")
                    .help("write listeners: {web: {bind: \"0.0.0.0:8080\"}}");
            self.problems.add(start, "", diagnostic);
        }
        if ready.routes.is_empty() {
            let diagnostic = Diagnostic::warning("no-routes", "there are no routes: every request is answered 404");
            self.problems.add(start, "", diagnostic);
        }
    }

    /// The one section with this name; a second one in another file is reported.
    fn only_one<'c, T>(&mut self, name: &str, mut sections: impl Iterator<Item = (&'c T, Span)>) -> Option<&'c T> {
        let (first, first_span) = sections.next()?;
        for (_, again) in sections {
            let diagnostic =
                Diagnostic::error("duplicate-section", format!("{name} is set in two files")).help("keep one of them");
            self.problems.add_with(again, "again here", (first_span, "first here"), diagnostic);
        }
        Some(first)
    }

    fn challenge(&mut self, written: Option<&Switch<Challenge>>) -> Option<desired::Challenge> {
        let default = desired::Challenge::default();
        let written = match written {
            Some(Switch::Off) => return None,
            Some(Switch::On(written)) => written,
            None => return Some(default),
        };
        let redirect = written.mode.as_ref().map_or(default.redirect, |mode| mode.value.0);
        if let (true, Some(work)) = (redirect, &written.work) {
            let diagnostic =
                Diagnostic::error("unused-key", "work has no meaning where a redirect is challenge enough")
                    .help("remove it, or write mode: work");
            self.problems.add(work.span, "nobody is given a puzzle", diagnostic);
        }
        let secret = written.secret.as_ref().map(|file| {
            self.places.push(("challenge.secret".into(), file.span));
            self.resolve(&file.value.0, file.span)
        });
        Some(desired::Challenge {
            redirect,
            work: written.work.as_ref().map_or(default.work, |work| work.value.0 as u8),
            valid: written.valid.as_ref().map_or(default.valid, |valid| valid.value.0),
            secret,
        })
    }

    fn access_log(&mut self, to: &At<AccessLogTo>) -> desired::AccessLog {
        self.places.push(("access_log".into(), to.span));
        match &to.value {
            AccessLogTo::Off => desired::AccessLog::Off,
            AccessLogTo::Stdout => desired::AccessLog::Stdout,
            AccessLogTo::File(path) => desired::AccessLog::File(self.resolve(path, to.span)),
        }
    }

    /// `path` against the folder of the file it was written in.
    fn resolve(&self, path: &FsPath, span: Span) -> PathBuf {
        let file = self.problems.files().get(span.file as usize);
        let folder = file.and_then(|file| file.path.parent()).unwrap_or(FsPath::new(""));
        // Collected component by component, so that `./tls/a` and `tls/a` are one path.
        folder.join(path).components().collect()
    }

    /// Allow and deny lists. `key` is where they stand.
    fn access(&mut self, key: &str, written: Option<&Access>) -> desired::Access {
        let Some(written) = written else { return desired::Access::default() };
        desired::Access {
            allow: networks(written.allow.as_ref()),
            deny: networks(written.deny.as_ref()),
            allow_files: self.list_files(key, "allow_files", written.allow_files.as_ref()),
            deny_files: self.list_files(key, "deny_files", written.deny_files.as_ref()),
        }
    }

    fn list_files(&mut self, key: &str, name: &str, written: Option<&Many<At<FilePath>>>) -> Vec<PathBuf> {
        let files: Vec<_> = written.iter().flat_map(|many| &many.items).collect();
        self.refuse_twins(files.iter().map(|file| (&file.value.0, file.span)), "file");
        for (at, file) in files.iter().enumerate() {
            self.places.push((format!("{key}.{name}.{at}"), file.span));
        }
        files.iter().map(|file| self.resolve(&file.value.0, file.span)).collect()
    }

    /// Reports an item that stands twice in a short list.
    fn refuse_twins<'c, T: PartialEq + 'c>(&mut self, items: impl Iterator<Item = (&'c T, Span)>, what: &str) {
        /// A longer list isn't searched: the search is quadratic, and a twin does no harm.
        const SEARCHED: usize = 256;
        let items: Vec<_> = items.take(SEARCHED).collect();
        for (at, (item, span)) in items.iter().enumerate() {
            let Some((_, first)) = items[..at].iter().find(|(earlier, _)| earlier == item) else { continue };
            let diagnostic = Diagnostic::error("duplicate-item", format!("the same {what} is listed twice"))
                .help("keep one of them");
            self.problems.add_with(*span, "again here", (*first, "first here"), diagnostic);
        }
    }
}

fn check_recording(written: &Recording) -> Vec<String> {
    written.redact.iter().flat_map(|names| &names.items).map(|name| name.value.0.clone()).collect()
}

fn check_client_ip(written: &ClientIp) -> desired::ClientIp {
    let default = desired::ClientIp::default();
    desired::ClientIp {
        trusted: networks(written.trusted.as_ref()),
        header: written.header.as_ref().map_or(default.header, |header| header.value.0.clone()),
        v6_prefix: written.v6_prefix.as_ref().map_or(default.v6_prefix, |prefix| prefix.value.0 as u8),
    }
}

fn check_paths(written: &Paths) -> desired::Paths {
    let default = desired::Paths::default();
    desired::Paths {
        dot_segments: written.dot_segments.as_ref().map_or(default.dot_segments, |rule| rule.value.0),
        slashes: written.slashes.as_ref().map_or(default.slashes, |rule| rule.value.0),
        escaped_slashes: written.escaped_slashes.as_ref().map_or(default.escaped_slashes, |rule| rule.value.0),
    }
}

fn networks(written: Option<&Many<At<Network>>>) -> Vec<ipnet::IpNet> {
    written.map(|many| many.items.iter().map(|network| network.value.0).collect()).unwrap_or_default()
}
