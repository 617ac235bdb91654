//! Routes: their names, limits, and the versions they lead to.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::Checker;
use super::names::{Names, twice};
use super::service::DEFAULT_VERSION;
use crate::config::{At, Limit, Route, Service};
use crate::desired::{self, Bounds, VersionRef};
use crate::diagnostic::Diagnostic;
use crate::literal::{Target, Time};
use crate::problems::{Span, suggest};

impl Checker<'_, '_> {
    pub(super) fn routes(
        &mut self,
        routes: &[&Route],
        services: &Names<'_, Service>,
        limits: &Names<'_, Limit>,
        bounds: &Bounds,
    ) -> (Vec<desired::Route>, Used) {
        let mut by_name: HashMap<&str, Span> = HashMap::with_capacity(routes.len());
        let mut used = Used::default();
        let mut ready = Vec::with_capacity(routes.len());
        for route in routes {
            let name = &route.name.value.0;
            if let Some(first) = by_name.insert(name, route.name.span) {
                twice("route", name, route.name.span, first, self.problems);
            }
            ready.push(self.route(route, services, limits, bounds, &mut used));
        }
        self.twin_matches(routes, &ready);
        (ready, used)
    }

    fn route(
        &mut self,
        route: &Route,
        services: &Names<'_, Service>,
        limits: &Names<'_, Limit>,
        bounds: &Bounds,
        used: &mut Used,
    ) -> desired::Route {
        let name = &route.name.value.0;
        let matches = self.matches(route.r#match.as_ref());
        let action = self.action(route, &matches.path, services, used);
        let timeouts = route.timeouts.as_ref();
        if let Some(timeouts) = timeouts {
            let who = format!("route \"{name}\"");
            self.within_total(
                &who,
                &[("connect", &timeouts.connect), ("first_byte", &timeouts.first_byte)],
                &timeouts.total,
            );
        }
        let own = |time: Option<&Option<At<Time>>>| Some(time?.as_ref()?.value.0);
        desired::Route {
            name: name.clone(),
            action,
            limits: self.limits_of(route, limits, used),
            access: self.access(&format!("routes.{name}.access"), route.access.as_ref()),
            rewrite: self.rewrite(name, route.rewrite.as_ref(), &matches.path),
            request_headers: self.header_edits(name, "request_headers", route.request_headers.as_ref()),
            response_headers: self.header_edits(name, "response_headers", route.response_headers.as_ref()),
            cors: route.cors.as_ref().map(|cors| self.cors(name, cors)),
            timeouts: desired::RouteTimeouts {
                connect: own(timeouts.map(|timeouts| &timeouts.connect)),
                first_byte: own(timeouts.map(|timeouts| &timeouts.first_byte)),
                idle: own(timeouts.map(|timeouts| &timeouts.idle)),
                total: own(timeouts.map(|timeouts| &timeouts.total)),
            },
            max_body: route.max_body.as_ref().map(|size| size.value.0),
            priority: route.priority.as_ref().map(|priority| priority.value.0).unwrap_or_default(),
            challenge: route.challenge.as_ref().map(|when| when.value.0).unwrap_or_default(),
            shadows: route
                .shadow
                .iter()
                .flat_map(|many| &many.items)
                .filter_map(|shadow| self.shadow(name, shadow, services, bounds, used))
                .collect(),
            matches,
        }
    }

    /// Resolves a service or version. `who` begins the sentence: `route "shop" points at`.
    pub(super) fn target(
        &mut self,
        who: fmt::Arguments<'_>,
        target: &At<Target>,
        services: &Names<'_, Service>,
        used: &mut Used,
    ) -> Option<VersionRef> {
        let name = &target.value.service;
        // Quotes push the text one to the right.
        let written = target.value.version.as_ref().map_or(name.len(), |version| name.len() + 1 + version.len());
        let quote = usize::from(target.span.length as usize == written + 2);
        let name_span = target.span.part(quote, name.len());
        let (at, service) = services.find((name, name_span), who, self.problems)?;
        used.services.insert(at);
        let service = service?;
        let names: Vec<&str> = match (&service.versions, &service.endpoints) {
            (Some(versions), _) => versions.entries.iter().map(|(name, _)| name.value.0.as_str()).collect(),
            (None, Some(_)) => vec![DEFAULT_VERSION],
            (None, None) => return None, // Reported where the service stands.
        };
        if names.is_empty() {
            return None; // Likewise.
        }
        let version = match &target.value.version {
            None if names.len() == 1 => 0,
            None => {
                let few: Vec<String> = names.iter().take(3).map(|version| format!("{name}/{version}")).collect();
                let message = format!("{who} service \"{name}\", which has {} versions", names.len());
                let diagnostic =
                    Diagnostic::error("which-version", message).help(format!("write {}", few.join(" or ")));
                self.problems.add(target.span, "the version is missing", diagnostic);
                return None;
            }
            Some(version) => match names.iter().position(|name| name == version) {
                Some(version) => version,
                None if service.versions.as_ref().is_some_and(|_| service.damaged) => return None,
                None => {
                    let message = format!("{who} a version that service \"{name}\" doesn't have");
                    let mut diagnostic = Diagnostic::error("unknown-version", message);
                    diagnostic.help = suggest(version, names.iter().copied());
                    let span = target.span.part(quote + name.len() + 1, version.len());
                    self.problems.add(span, format!("\"{name}\" has no version of this name"), diagnostic);
                    return None;
                }
            },
        };
        Some(VersionRef { service: at, version })
    }

    fn limits_of(&mut self, route: &Route, limits: &Names<'_, Limit>, used: &mut Used) -> Vec<usize> {
        let written: Vec<_> = route.limits.iter().flat_map(|many| &many.items).collect();
        self.refuse_twins(written.iter().map(|name| (&name.value, name.span)), "limit");
        let mut ready = Vec::with_capacity(written.len());
        for name in written {
            let Some((at, _)) = limits.find(
                (&name.value.0, name.span),
                format_args!("route \"{}\" names", route.name.value.0),
                self.problems,
            ) else {
                continue;
            };
            used.limits.insert(at);
            ready.push(at);
        }
        ready
    }

    /// Warns of what no route leads to.
    pub(super) fn unused(&mut self, services: &Names<'_, Service>, limits: &Names<'_, Limit>, used: &Used) {
        for (at, (name, _)) in services.entries().enumerate() {
            if !used.services.contains(&at) {
                let diagnostic =
                    Diagnostic::warning("unused-service", format!("no route leads to service \"{}\"", name.value.0));
                self.problems.add(name.span, "nothing is ever sent to it", diagnostic);
            }
        }
        for (at, (name, _)) in limits.entries().enumerate() {
            if !used.limits.contains(&at) {
                let diagnostic =
                    Diagnostic::warning("unused-limit", format!("no route names limit \"{}\"", name.value.0))
                        .help(format!("add limits: [{}] to a route", name.value.0));
                self.problems.add(name.span, "it limits nothing", diagnostic);
            }
        }
    }
}

/// What routes lead to, by index.
#[derive(Default)]
pub(super) struct Used {
    services: HashSet<usize>,
    limits: HashSet<usize>,
}
