//! What changed between two configurations, in an operator's words.
//!
//! `route shop: shop/v1 95 → 80, shop/v2 5 → 20`. For `tidegate history` and
//! `diff`: the text says what was typed, this says what it does.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::desired::{Action, Desired, Limit, Listener, Route, Service, VersionRef, Weight};

/// One line for each thing that `new` does and `old` didn't, or does differently. Empty if they do the same.
pub fn changes(old: &Desired, new: &Desired) -> Vec<String> {
    let (before, after) = (things(old), things(new));
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let told = names.into_iter().filter_map(|name| match (before.get(name), after.get(name)) {
        (Some(_), None) => Some(format!("{name}: removed")),
        (None, Some(_)) => Some(format!("{name}: added")),
        (Some(before), Some(after)) => {
            let parts = differences(before, after);
            (!parts.is_empty()).then(|| format!("{name}: {}", parts.join(", ")))
        }
        (None, None) => None,
    });
    told.collect()
}

/// Something about a thing that can change, with every index resolved to a name: `shop/v1` is `95`.
struct Aspect {
    name: String,
    value: String,
    /// Whether the value is short and plain enough to be told; otherwise only that it changed.
    shown: bool,
}

/// `route shop` → its aspects.
type Things = BTreeMap<String, Vec<Aspect>>;

fn differences(before: &[Aspect], after: &[Aspect]) -> Vec<String> {
    let find = |aspects: &[Aspect], name: &str| aspects.iter().position(|aspect| aspect.name == name);
    let mut parts = Vec::new();
    for aspect in after {
        let name = &aspect.name;
        match find(before, name).map(|at| &before[at]) {
            Some(old) if old.value == aspect.value => {}
            Some(old) if aspect.shown => parts.push(format!("{name} {} → {}", old.value, aspect.value)),
            Some(_) => parts.push(format!("{name} changed")),
            None if aspect.shown => parts.push(format!("{name} {} added", aspect.value)),
            None => parts.push(format!("{name} added")),
        }
    }
    let gone = before.iter().filter(|aspect| find(after, &aspect.name).is_none());
    parts.extend(gone.map(|aspect| format!("{} removed", aspect.name)));
    parts
}

fn things(desired: &Desired) -> Things {
    let mut things = Things::new();
    let mut add = |kind: &str, name: &str, aspects| things.insert(format!("{kind} {name}").trim().to_owned(), aspects);
    for it in &desired.listeners {
        add("listener", &it.name, listener(it));
    }
    for it in &desired.limits {
        add("limit", &it.name, limit(it));
    }
    for it in &desired.services {
        add("service", &it.name, service(it));
    }
    for it in &desired.routes {
        add("route", &it.name, route(desired, it));
    }
    let whole = vec![
        hidden("admin address", &desired.admin),
        hidden("acme", &desired.acme),
        hidden("TLS settings", &desired.tls),
        hidden("client_ip", &desired.client_ip),
        hidden("path rules", &desired.paths),
        hidden("access lists", &desired.access),
        hidden("access log", &desired.access_log),
        hidden("challenge", &(&desired.challenge, &desired.exempt)),
        hidden("dyed traffic", &desired.dyed),
        hidden("what recordings leave out", &desired.redact),
        hidden("bounds", &desired.bounds),
    ];
    add("gateway", "", whole);
    things
}

fn listener(it: &Listener) -> Vec<Aspect> {
    vec![
        shown("bind", it.bind),
        hidden("purpose", &it.purpose),
        hidden("TLS", &it.tls),
        hidden("protocols", &(it.http1, it.http2)),
        hidden("PROXY protocol", &it.proxy_protocol),
        hidden("deadlines and sizes", &it.guard),
    ]
}

fn limit(it: &Limit) -> Vec<Aspect> {
    vec![
        shown("rate", format!("{}/{}s", it.per_window, it.window.as_secs_f64())),
        shown("burst", it.burst),
        shown("over", if it.challenge { "challenge".into() } else { it.over.to_string() }),
        hidden("key", &it.keys),
        hidden("ban", &it.ban),
    ]
}

fn service(it: &Service) -> Vec<Aspect> {
    let mut aspects = vec![
        hidden("balance", &it.balance),
        hidden("health probe", &it.probe),
        hidden("ejection", &it.eject),
        hidden("retries", &it.retry),
        hidden("timeouts", &it.timeouts),
        hidden("protocol", &it.protocol),
        hidden("TLS", &it.tls),
        hidden("capacity", &it.capacity),
        shown("keep_idle", it.keep_idle),
    ];
    aspects.extend(it.versions.iter().map(|version| {
        let endpoint = |endpoint: &crate::desired::EndpointSpec| match endpoint.weight {
            1 => endpoint.address.to_string(),
            weight => format!("{}×{weight}", endpoint.address),
        };
        let endpoints: Vec<String> = version.endpoints.iter().map(endpoint).collect();
        shown(&format!("version {}", version.name), format!("[{}]", endpoints.join(" ")))
    }));
    aspects
}

fn route(desired: &Desired, it: &Route) -> Vec<Aspect> {
    let limits: Vec<&str> = it.limits.iter().map(|&limit| desired.limits[limit].name.as_str()).collect();
    let mut aspects = vec![
        hidden("match", &it.matches),
        shown("limits", format!("[{}]", limits.join(" "))),
        hidden("path rules", &desired.paths),
        hidden("access lists", &it.access),
        hidden("rewrite", &it.rewrite),
        hidden("request headers", &it.request_headers),
        hidden("response headers", &it.response_headers),
        hidden("CORS", &it.cors),
        hidden("timeouts", &it.timeouts),
        hidden("max_body", &it.max_body),
        hidden("priority", &it.priority),
        hidden("challenge", &it.challenge),
    ];
    match &it.action {
        Action::Redirect(redirect) => aspects.push(hidden("redirect", redirect)),
        Action::Answer(answer) => aspects.push(hidden("answer", answer)),
        Action::Forward(split) => {
            aspects.push(hidden("stickiness", &(&split.stick_by, &split.salt, &split.issue)));
            aspects.extend(split.arms.iter().map(|arm| shown(&label(desired, arm.version), weight(arm.weight))));
        }
    }
    aspects.extend(it.shadows.iter().map(|shadow| {
        let mut elsewhere = shadow.clone();
        elsewhere.to = VersionRef { service: 0, version: 0 }; // Its name is the aspect's; an index may move.
        hidden(&format!("shadow to {}", label(desired, shadow.to)), &elsewhere)
    }));
    aspects
}

fn label(desired: &Desired, at: VersionRef) -> String {
    let service = &desired.services[at.service];
    format!("{}/{}", service.name, service.versions[at.version].name)
}

fn weight(weight: Weight) -> String {
    match weight {
        Weight::Share(share) => share.to_string(),
        Weight::Drain => "drain".into(),
        Weight::Off => "off".into(),
    }
}

fn shown(name: &str, value: impl ToString) -> Aspect {
    Aspect { name: name.into(), value: value.to_string(), shown: true }
}

fn hidden(name: &str, value: &impl Debug) -> Aspect {
    Aspect { name: name.into(), value: format!("{value:?}"), shown: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{SourceFile, check};

    const SHOP: &str = r#"
version: 1
listeners: {web: {bind: "127.0.0.1:8080"}}
limits: {per_ip: {key: client_ip, rate: 50/s}}
services:
  shop: {versions: {v1: {endpoints: ["127.0.0.1:9001"]}, v2: {endpoints: ["127.0.0.1:9011"]}}}
routes:
  - {name: shop, match: {path: /**}, limits: [per_ip], split: {weights: {shop/v1: 95, shop/v2: 5}}}
"#;

    fn desired(text: &str) -> Desired {
        check(&[SourceFile { path: "/edge.yaml".into(), text: text.into() }]).expect("a valid configuration").desired
    }

    fn changed(edits: &[(&str, &str)]) -> Vec<String> {
        let text = edits.iter().fold(SHOP.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        changes(&desired(SHOP), &desired(&text))
    }

    #[test]
    fn moved_weights_are_told_arm_by_arm() {
        let lines = changed(&[("shop/v1: 95, shop/v2: 5", "shop/v1: 80, shop/v2: 20")]);

        assert_eq!(lines, ["route shop: shop/v1 95 → 80, shop/v2 5 → 20"]);
    }

    #[test]
    fn comments_and_order_are_no_change() {
        let lines = changed(&[
            ("shop/v1: 95, shop/v2: 5", "shop/v2: 5, shop/v1: 95  # for now\n   "),
            ("services:\n", "services:\n  also: {endpoints: [\"127.0.0.1:1\"]}\n"),
        ]);

        assert_eq!(lines, ["service also: added"]);
    }

    #[test]
    fn things_that_come_and_go_are_named() {
        let lines = changed(&[
            ("rate: 50/s", "rate: 5/m"),
            ("[\"127.0.0.1:9011\"]", "[\"127.0.0.1:9011\", \"127.0.0.1:9012\"]"),
            ("name: shop, ", "name: store, "),
        ]);

        insta::assert_snapshot!(lines.join("\n"));
    }
}
