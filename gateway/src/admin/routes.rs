//! What `/routes` shows: every route under each of its hosts, the most specific first.
//!
//! A request belongs to the first row that takes it. The order is the one that `decide::route` promises.

use std::cmp::Reverse;
use std::fmt::Write;

use serde::Serialize;
use tidegate_model::desired::{
    Action, Desired, DyedMatch, HostPattern, PathPattern, PathRewrite, Redirect, Route, ValuePattern, Weight,
};

use crate::decide::route::conditions;

/// One route under one of its hosts.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    host: String,
    path: String,
    route: String,
    /// What else must hold, as the configuration would write it.
    conditions: Vec<String>,
    action: String,
    limits: Vec<String>,
    shadows: Vec<String>,
}

/// Every route under each of its hosts, in order of precedence.
pub(super) fn in_order(desired: &Desired) -> Vec<Row> {
    let mut rows: Vec<(Option<&HostPattern>, &Route)> = Vec::new();
    for route in &desired.routes {
        rows.extend(route.matches.hosts.iter().map(|host| (Some(host), route)));
        if route.matches.hosts.is_empty() {
            rows.push((None, route));
        }
    }
    rows.sort_by_key(|(host, route)| {
        let rank = (host_rank(*host), path_rank(&route.matches.path), Reverse(conditions(&route.matches)));
        (route.matches.dyed.is_none(), rank)
    });
    rows.into_iter().map(|(host, route)| row(desired, host, route)).collect()
}

/// The rows as text.
pub(super) fn table(rows: &[Row]) -> String {
    const HEAD: [&str; 6] = ["HOST", "PATH", "CONDITIONS", "ROUTE", "ACTION", "LIMITS"];
    let cells = rows.iter().map(|row| {
        let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        [
            row.host.clone(),
            row.path.clone(),
            dash(row.conditions.join(" ")),
            row.route.clone(),
            row.action.clone(),
            dash(row.limits.join(" ")),
        ]
    });
    let lines: Vec<[String; 6]> = std::iter::once(HEAD.map(str::to_owned)).chain(cells).collect();
    let widths: [usize; 6] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0));

    let mut out = String::new();
    for line in lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// Exact hosts first, then wildcards, the longest first, then none. Equal hosts stand together.
fn host_rank(host: Option<&HostPattern>) -> (u8, Reverse<usize>, &str) {
    match host {
        Some(HostPattern::Exact(name)) => (0, Reverse(0), name),
        Some(HostPattern::Wildcard(suffix)) => (1, Reverse(suffix.len()), suffix),
        None => (2, Reverse(0), ""),
    }
}

/// Exact paths first, then regular expressions, then prefixes, the longest first.
fn path_rank(path: &PathPattern) -> (u8, Reverse<usize>, &str) {
    match path {
        PathPattern::Exact(path) => (0, Reverse(0), path),
        PathPattern::Regex(_) => (1, Reverse(0), ""), // Equally specific: what follows decides.
        PathPattern::Prefix(prefix) => (2, Reverse(prefix.len()), prefix),
    }
}

fn row(desired: &Desired, host: Option<&HostPattern>, route: &Route) -> Row {
    let version = |at: tidegate_model::desired::VersionRef| {
        let service = &desired.services[at.service];
        format!("{}/{}", service.name, service.versions[at.version].name)
    };
    Row {
        host: match host {
            Some(HostPattern::Exact(name)) => name.clone(),
            Some(HostPattern::Wildcard(suffix)) => format!("*.{suffix}"),
            None => "*".into(),
        },
        path: match &route.matches.path {
            PathPattern::Exact(path) => path.clone(),
            PathPattern::Prefix(prefix) => format!("{prefix}/**"),
            PathPattern::Regex(pattern) => format!("~ {pattern}"),
        },
        route: route.name.clone(),
        conditions: shown(route),
        action: match &route.action {
            Action::Forward(split) if split.arms.len() == 1 => format!("to {}", version(split.arms[0].version)),
            Action::Forward(split) => {
                let arms = split.arms.iter().map(|arm| format!("{}: {}", version(arm.version), weight(arm.weight)));
                format!("split {}", arms.collect::<Vec<_>>().join(", "))
            }
            Action::Redirect(redirect) => redirection(redirect),
            Action::Answer(answer) => format!("answer {}", answer.status),
        },
        limits: route.limits.iter().map(|index| desired.limits[*index].name.clone()).collect(),
        shadows: route.shadows.iter().map(|shadow| version(shadow.to)).collect(),
    }
}

fn shown(route: &Route) -> Vec<String> {
    let matches = &route.matches;
    let mut out = Vec::new();
    out.extend(matches.dyed.as_ref().map(|dyed| match dyed {
        DyedMatch::Any => "dyed".to_owned(),
        DyedMatch::Run(run) => format!("dyed:{run}"),
    }));
    if !matches.methods.is_empty() {
        out.push(matches.methods.join("|"));
    }
    for (kind, patterns) in [("header", &matches.headers), ("query", &matches.query), ("cookie", &matches.cookies)] {
        out.extend(patterns.iter().map(|(name, pattern)| match pattern {
            ValuePattern::Exact(value) => format!("{kind}:{name}={value}"),
            ValuePattern::Regex(pattern) => format!("{kind}:{name}~{pattern}"),
            ValuePattern::Present => format!("{kind}:{name}"),
        }));
    }
    out
}

fn weight(weight: Weight) -> String {
    match weight {
        Weight::Share(share) => share.to_string(),
        Weight::Drain => "drain".into(),
        Weight::Off => "off".into(),
    }
}

/// `redirect 301 https://www.example.com:8443/new`, without what stays as it was.
fn redirection(redirect: &Redirect) -> String {
    let mut out = format!("redirect {} ", redirect.status);
    if redirect.scheme.is_some() || redirect.host.is_some() || redirect.port.is_some() {
        let scheme = redirect.scheme.as_ref().map(|scheme| format!("{scheme}:")).unwrap_or_default();
        let _ = write!(out, "{scheme}//{}", redirect.host.as_deref().unwrap_or("{host}"));
        if let Some(port) = redirect.port {
            let _ = write!(out, ":{port}");
        }
    }
    match &redirect.path {
        Some(PathRewrite::Full(path)) => out.push_str(path),
        Some(PathRewrite::Prefix(prefix)) => {
            let _ = write!(out, "{prefix}/**");
        }
        None => {}
    }
    out.trim_end().to_owned()
}
