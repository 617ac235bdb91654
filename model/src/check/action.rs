//! What routes do with a request: split, redirect, answer.

use std::collections::HashMap;
use std::time::Duration;

use super::Checker;
use super::names::Names;
use super::route::Used;
use crate::config::{Answer, At, Redirect, Rewrite, Route, Service, Split};
use crate::desired::{self, Action, Arm, FixedAnswer, PathPattern, PathRewrite, VersionRef, Weight};
use crate::diagnostic::Diagnostic;
use crate::literal::RewritePath;
use crate::problems::Span;

/// How long an issued cookie lasts, where nothing was written.
const ISSUE_AGE: Duration = Duration::from_secs(30 * 86_400);

impl Checker<'_, '_> {
    pub(super) fn action(
        &mut self,
        route: &Route,
        path: &PathPattern,
        services: &Names<'_, Service>,
        used: &mut Used,
    ) -> Action {
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
        let to = route
            .to
            .as_ref()
            .and_then(|to| self.target(format_args!("route \"{name}\" points at"), to, services, used));
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

    fn split(&mut self, route: &str, split: &Split, services: &Names<'_, Service>, used: &mut Used) -> desired::Split {
        let mut arms: Vec<Arm> = Vec::with_capacity(split.weights.entries.len());
        let mut seen: HashMap<VersionRef, Span> = HashMap::new();
        for (target, weight) in &split.weights.entries {
            let Some(version) =
                self.target(format_args!("the split of route \"{route}\" names"), target, services, used)
            else {
                continue;
            };
            if let Some(first) = seen.insert(version, target.span) {
                let diagnostic = Diagnostic::error(
                    "duplicate-item",
                    format!("the split of route \"{route}\" names the same version twice"),
                )
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

    pub(super) fn rewrite(
        &mut self,
        route: &str,
        rewrite: Option<&Rewrite>,
        matched: &PathPattern,
    ) -> desired::Rewrite {
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

    fn answer(&mut self, route: &str, answer: &Answer) -> FixedAnswer {
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
}
