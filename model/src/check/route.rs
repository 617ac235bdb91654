//! Routes: what they do, and where they lead.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::names::{Names, twice};
use super::service::DEFAULT_VERSION;
use super::{Checker, check_access};
use crate::config::{At, Cors, HeaderEdits, Limit, Many, Redirect, Rewrite, Route, Service, Split, Table};
use crate::desired::{self, Action, Arm, Bounds, FixedAnswer, PathPattern, PathRewrite, VersionRef, Weight};
use crate::diagnostic::Diagnostic;
use crate::literal::{HeaderName, HeaderValue, RewritePath, Target};
use crate::problems::{Span, suggest};

/// How long an issued cookie lasts, where nothing was written.
const ISSUE_AGE: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);

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
        let own = |time: Option<&Option<At<crate::literal::Time>>>| Some(time?.as_ref()?.value.0);
        desired::Route {
            name: name.clone(),
            action,
            limits: self.limits_of(route, limits, used),
            access: check_access(route.access.as_ref()),
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
            shadows: route
                .shadow
                .iter()
                .flat_map(|many| &many.items)
                .filter_map(|shadow| self.shadow(name, shadow, services, bounds, used))
                .collect(),
            matches,
        }
    }

    fn action(&mut self, route: &Route, path: &PathPattern, services: &Names<'_, Service>, used: &mut Used) -> Action {
        let name = &route.name.value.0;
        let written: Vec<(&str, Span)> = [
            route.to.as_ref().map(|to| ("to", to.span)),
            route.split.as_ref().map(|split| ("split", split.span)),
            route.redirect.as_ref().map(|redirect| ("redirect", redirect.span)),
            route.answer.as_ref().map(|answer| ("answer", answer.span)),
        ]
        .into_iter()
        .flatten()
        .collect();
        match written.as_slice() {
            [] if !route.damaged => {
                let diagnostic = Diagnostic::error("no-action", format!("route \"{name}\" doesn't say what happens"))
                    .help("add one of to, split, redirect and answer");
                self.problems.add(route.name.span, "this route does nothing", diagnostic);
            }
            [(first, first_span), (second, second_span), ..] => {
                let message = format!("route \"{name}\" has both {first} and {second}");
                let diagnostic =
                    Diagnostic::error("two-actions", message).help("keep one of to, split, redirect and answer");
                self.problems.add_with(*second_span, "this", (*first_span, "and this"), diagnostic);
            }
            _ => {}
        }
        if let Some((kind, _)) = written.first().filter(|(kind, _)| matches!(*kind, "redirect" | "answer")) {
            self.needs_upstream(route, kind);
        }

        // Everything that was written is checked, even where only one of them can hold.
        let to =
            route.to.as_ref().and_then(|to| self.target(&format!("route \"{name}\" points at"), to, services, used));
        let split = route.split.as_ref().map(|split| self.split(name, split, services, used));
        let redirect = route.redirect.as_ref().map(|redirect| self.redirect(name, redirect, path));
        let answer = route.answer.as_ref().map(|answer| self.answer(name, answer));
        if let Some(split) = split {
            return Action::Forward(split);
        }
        if let Some(redirect) = redirect {
            return Action::Redirect(redirect);
        }
        if let Some(answer) = answer {
            return Action::Answer(answer);
        }
        let arms = to.map(|version| Arm { version, weight: Weight::Share(1) }).into_iter().collect();
        Action::Forward(desired::Split { arms, ..Default::default() })
    }

    /// Reports what has no meaning where the gateway answers by itself.
    fn needs_upstream(&mut self, route: &Route, action: &str) {
        let keys = [
            ("rewrite", route.rewrite.as_ref().map(|rewrite| rewrite.span)),
            ("shadow", route.shadow.as_ref().map(|shadow| shadow.span)),
            ("timeouts", route.timeouts.as_ref().map(|timeouts| timeouts.span)),
            ("request_headers", route.request_headers.as_ref().map(|edits| edits.span)),
        ];
        for (key, span) in keys {
            let Some(span) = span else { continue };
            let message =
                format!("{key} has no meaning in route \"{}\": its {action} asks no service", route.name.value.0);
            let diagnostic = match key {
                "rewrite" | "shadow" => Diagnostic::error("unused-key", message),
                _ => Diagnostic::warning("unused-key", message),
            };
            self.problems.add(span, "nothing goes upstream", diagnostic.help(format!("remove {key}")));
        }
    }

    /// Resolves a service or version. `who` begins the sentence: `route "shop" points at`.
    pub(super) fn target(
        &mut self,
        who: &str,
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

    fn split(&mut self, route: &str, split: &Split, services: &Names<'_, Service>, used: &mut Used) -> desired::Split {
        let who = format!("the split of route \"{route}\" names");
        let mut arms: Vec<Arm> = Vec::with_capacity(split.weights.entries.len());
        let mut seen: HashMap<VersionRef, Span> = HashMap::new();
        for (target, weight) in &split.weights.entries {
            let Some(version) = self.target(&who, target, services, used) else { continue };
            if let Some(first) = seen.insert(version, target.span) {
                let diagnostic = Diagnostic::error("duplicate-item", format!("{who} the same version twice"))
                    .help("keep one of them");
                self.problems.add_with(target.span, "again here", (first, "first here"), diagnostic);
            }
            if let Some(weight) = weight {
                arms.push(Arm { version, weight: weight.value.0 });
            }
        }
        let any_share = split
            .weights
            .entries
            .iter()
            .any(|(_, weight)| weight.as_ref().is_none_or(|weight| matches!(weight.value.0, Weight::Share(_))));
        if !any_share && !split.damaged {
            let (message, label, help) = match split.weights.entries.is_empty() {
                true => ("has no weights", "nothing is listed", "write weights: {shop/v1: 95, shop/v2: 5}"),
                false => (
                    "gives nobody a weight",
                    "all of these are 0, drain or off",
                    "give one version a weight of at least 1",
                ),
            };
            let span = match split.weights.entries.first() {
                Some((target, _)) => target.span,
                None => split.span,
            };
            let diagnostic =
                Diagnostic::error("no-weight", format!("the split of route \"{route}\" {message}")).help(help);
            self.problems.add(span, label, diagnostic);
        }
        let stick_by = split.stick_by.iter().flat_map(|many| &many.items);
        self.refuse_twins(stick_by.clone().map(|key| (&key.value.0, key.span)), "key");
        desired::Split {
            stick_by: stick_by.map(|key| key.value.0.clone()).collect(),
            salt: split.salt.as_ref().map_or_else(|| route.to_owned(), |salt| salt.value.0.clone()),
            issue: split.issue.as_ref().map(|issue| desired::IssueCookie {
                name: issue.cookie.value.0.clone(),
                max_age: issue.max_age.as_ref().map_or(ISSUE_AGE, |age| age.value.0),
            }),
            arms,
        }
    }

    fn redirect(&mut self, route: &str, redirect: &Redirect, matched: &PathPattern) -> desired::Redirect {
        let changes = redirect.scheme.is_some()
            || redirect.host.is_some()
            || redirect.port.is_some()
            || redirect.path.is_some()
            || redirect.prefix.is_some();
        if !changes && !redirect.damaged {
            let diagnostic =
                Diagnostic::error("redirect-loop", format!("the redirect of route \"{route}\" changes nothing"))
                    .help("give at least one of scheme, host, port, path and prefix");
            self.problems.add(redirect.span, "clients would come back for ever", diagnostic);
        }
        desired::Redirect {
            scheme: redirect.scheme.as_ref().map(|scheme| scheme.value.0.to_owned()),
            host: redirect.host.as_ref().map(|host| host.value.0.clone()),
            port: redirect.port.as_ref().map(|port| port.value.0 as u16),
            path: self.path_rewrite(route, redirect.path.as_ref(), redirect.prefix.as_ref(), matched),
            status: redirect.status.as_ref().map_or(302, |status| status.value.0),
        }
    }

    fn rewrite(&mut self, route: &str, rewrite: Option<&Rewrite>, matched: &PathPattern) -> desired::Rewrite {
        let Some(rewrite) = rewrite else { return desired::Rewrite::default() };
        desired::Rewrite {
            host: rewrite.host.as_ref().map(|host| host.value.0.clone()),
            path: self.path_rewrite(route, rewrite.path.as_ref(), rewrite.prefix.as_ref(), matched),
        }
    }

    fn path_rewrite(
        &mut self,
        route: &str,
        path: Option<&At<RewritePath>>,
        prefix: Option<&At<RewritePath>>,
        matched: &PathPattern,
    ) -> Option<PathRewrite> {
        if let (Some(path), Some(prefix)) = (path, prefix) {
            let message = format!("route \"{route}\" changes both the path and its prefix");
            let diagnostic = Diagnostic::error("two-paths", message).help("keep one of them");
            self.problems.add_with(prefix.span, "this", (path.span, "and this"), diagnostic);
        }
        if let Some(prefix) = prefix.filter(|_| !matches!(matched, PathPattern::Prefix(_))) {
            let message = format!("route \"{route}\" changes a prefix, but doesn't match one");
            let diagnostic =
                Diagnostic::error("no-prefix", message).help("match a path such as /shop/**, or change the whole path");
            self.problems.add(prefix.span, "there is no prefix to replace", diagnostic);
        }
        match (path, prefix) {
            (Some(path), _) => Some(PathRewrite::Full(path.value.0.clone())),
            (None, Some(prefix)) => Some(PathRewrite::Prefix(prefix.value.0.clone())),
            (None, None) => None,
        }
    }

    fn answer(&mut self, route: &str, answer: &crate::config::Answer) -> FixedAnswer {
        let status = answer.status.as_ref().map_or(200, |status| status.value.0 as u16);
        if let Some(body) =
            answer.body.as_ref().filter(|body| matches!(status, 204 | 205 | 304) && !body.value.0.is_empty())
        {
            let diagnostic =
                Diagnostic::error("body-not-allowed", format!("the answer of route \"{route}\" can't have a body"))
                    .help("remove the body, or choose another status");
            self.problems.add(body.span, format!("{status} has no body"), diagnostic);
        }
        FixedAnswer {
            status,
            content_type: answer
                .content_type
                .as_ref()
                .map_or_else(|| "text/plain; charset=utf-8".into(), |kind| kind.value.0.clone()),
            body: answer.body.as_ref().map(|body| body.value.0.clone()).unwrap_or_default(),
        }
    }

    fn limits_of(&mut self, route: &Route, limits: &Names<'_, Limit>, used: &mut Used) -> Vec<usize> {
        let who = format!("route \"{}\" names", route.name.value.0);
        let written: Vec<_> = route.limits.iter().flat_map(|many| &many.items).collect();
        self.refuse_twins(written.iter().map(|name| (&name.value, name.span)), "limit");
        let mut ready = Vec::with_capacity(written.len());
        for name in written {
            let Some((at, _)) = limits.find((&name.value.0, name.span), &who, self.problems) else { continue };
            used.limits.insert(at);
            ready.push(at);
        }
        ready
    }

    fn header_edits(&mut self, route: &str, key: &str, edits: Option<&HeaderEdits>) -> desired::HeaderEdits {
        let Some(edits) = edits else { return desired::HeaderEdits::default() };
        let removed: Vec<_> = edits.remove.iter().flat_map(|many| &many.items).collect();
        self.refuse_twins(removed.iter().map(|name| (&name.value, name.span)), "header");
        for name in &removed {
            self.refuse_framing(route, key, name);
        }
        desired::HeaderEdits {
            set: self.headers(route, key, &edits.set),
            add: self.headers(route, key, &edits.add),
            remove: removed.into_iter().map(|name| name.value.0.clone()).collect(),
        }
    }

    pub(super) fn headers(
        &mut self,
        route: &str,
        key: &str,
        table: &Table<HeaderName, At<HeaderValue>>,
    ) -> BTreeMap<String, String> {
        let mut ready = BTreeMap::new();
        for (name, value) in &table.entries {
            self.refuse_framing(route, key, name);
            if let Some(value) = value {
                ready.insert(name.value.0.clone(), value.value.0.clone());
            }
        }
        ready
    }

    /// Reports headers that belong to one connection, or say where a message ends (RFC 9110 §7.6.1, RFC 9112 §6):
    /// whoever could write them could smuggle requests.
    fn refuse_framing(&mut self, route: &str, key: &str, name: &At<HeaderName>) {
        const FRAMING: &[&str] = &[
            "connection",
            "content-length",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let header = name.value.0.as_str();
        let help = match header {
            "host" if key == "mark" => "a copy keeps the host of its request",
            "host" if key != "response_headers" => "write rewrite: {host: …}",
            _ if FRAMING.contains(&header) => "the gateway writes it itself, for each connection",
            _ => return,
        };
        let message = format!("{key} of route \"{route}\" can't change \"{header}\"");
        let diagnostic = Diagnostic::error("forbidden-header", message).help(help);
        self.problems.add(name.span, "this isn't the route's to change", diagnostic);
    }

    fn cors(&mut self, route: &str, cors: &Cors) -> desired::Cors {
        let credentials = cors.credentials.as_ref().is_some_and(|flag| flag.value.0);
        let any = cors.origins.items.iter().find(|origin| origin.value.0 == "*");
        if let (Some(any), Some(flag)) = (any.filter(|_| credentials), &cors.credentials) {
            let message = format!("cors of route \"{route}\" lets every site act with its visitors' cookies");
            let diagnostic = Diagnostic::error("cors-credentials", message).help("list the origins that may");
            self.problems.add_with(any.span, "every site", (flag.span, "with cookies"), diagnostic);
        }
        if cors.origins.items.is_empty() && !cors.damaged {
            let diagnostic = Diagnostic::error("no-origins", format!("cors of route \"{route}\" lists no origin"))
                .help("write origins: [\"https://shop.example.com\"], or leave cors out");
            self.problems.add(cors.origins.span, "this list is empty", diagnostic);
        }
        let names = |many: &Option<Many<At<HeaderName>>>| {
            many.iter().flat_map(|many| &many.items).map(|name| name.value.0.clone()).collect()
        };
        desired::Cors {
            origins: cors.origins.items.iter().map(|origin| origin.value.0.clone()).collect(),
            methods: match &cors.methods {
                Some(many) => many.items.iter().map(|method| method.value.0.clone()).collect(),
                None => ["GET", "HEAD", "POST"].map(str::to_owned).to_vec(),
            },
            headers: names(&cors.headers),
            expose: names(&cors.expose),
            credentials,
            max_age: cors.max_age.as_ref().map(|age| age.value.0),
        }
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
