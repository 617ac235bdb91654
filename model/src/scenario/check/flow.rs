//! Flows and their steps.

use super::Checker;
use super::feeder::Feeders;
use crate::config::{At, ValueMatch};
use crate::diagnostic::Diagnostic;
use crate::literal::{HeaderName, HeaderValue, Literal};
use crate::problems::Span;
use crate::scenario::plan::{BODY_KEPT, Check, Flow, Piece, Step, Take, Template, Value};
use crate::scenario::template::{self, BUILT_IN, Scope};
use crate::scenario::word::{self, Filled, UrlOrPath};
use crate::scenario::written::{self, FlowOrStep, Scenario};

/// Flows that were checked.
#[derive(Default)]
pub(super) struct Flows {
    pub(super) ready: Vec<Flow>,
    /// For each of them, the feeders that it uses.
    pub(super) feeders: Vec<Vec<usize>>,
    /// Names of all steps, and where they stand.
    pub(super) step_names: Vec<(String, Span)>,
    /// Hosts that steps name themselves, and where.
    pub(super) origins: Vec<(String, Span)>,
}

/// Header fields that say where a message ends or belong to one connection: the engine writes them.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where a template stands, and what its values must be like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    Target,
    Header,
    Body,
}

impl Checker<'_, '_> {
    pub(super) fn flows(&mut self, scenario: &Scenario, feeders: &Feeders) -> Flows {
        let mut flows = Flows::default();
        if scenario.flows.is_empty() && !scenario.damaged {
            let diagnostic = Diagnostic::error("no-flows", "there is nothing to send")
                .help("write flows: [{name: front, get: /}], for example");
            self.problems.add(scenario.span.part(0, 1), "flows is empty", diagnostic);
        }
        let mut names: Vec<(String, Span)> = Vec::new();
        for written in &scenario.flows {
            let (name, weight, steps) = match written {
                FlowOrStep::Step(step) => (&step.name, &step.weight, std::slice::from_ref(&**step)),
                FlowOrStep::Flow(flow) => {
                    self.refuse_inner_weights(&flow.steps);
                    if flow.steps.is_empty() && !flow.damaged {
                        let message = format!("flow \"{}\" has no steps", flow.name.value.0);
                        self.problems.add(flow.span, "steps is empty", Diagnostic::error("no-steps", message));
                    }
                    (&flow.name, &flow.weight, flow.steps.as_slice())
                }
            };
            let is_twin = self.refuse_twin("flow", &name.value.0, name.span, &names);
            names.push((name.value.0.clone(), name.span));
            let takes = self.takes(steps, feeders);
            let mut ready = Vec::with_capacity(steps.len());
            let mut used = Vec::new();
            for (at, step) in steps.iter().enumerate() {
                // A step that is a flow by itself is told off once.
                if !(is_twin && matches!(written, FlowOrStep::Step(_))) {
                    self.refuse_twin("step", &step.name.value.0, step.name.span, &flows.step_names);
                }
                flows.step_names.push((step.name.value.0.clone(), step.name.span));
                let scope = Scope { feeders: &feeders.known, takes: &takes.names, step: at };
                if let Some(step) = self.step(step, scenario, &scope, feeders, &mut flows.origins, &mut used) {
                    ready.push(step);
                }
            }
            self.unused_takes(&takes, &ready, steps);
            flows.feeders.push(used);
            let weight = weight.as_ref().map_or(1.0, |weight| weight.value.0);
            flows.ready.push(Flow { name: name.value.0.clone(), weight, steps: ready });
        }
        flows
    }

    /// Reports a name that is among `others` already. Tells whether it was.
    fn refuse_twin(&mut self, what: &str, name: &str, span: Span, others: &[(String, Span)]) -> bool {
        let Some((_, first)) = others.iter().find(|(other, _)| other == name) else { return false };
        let diagnostic = Diagnostic::error("duplicate-name", format!("{what} \"{name}\" is defined twice"))
            .help("give it another name, so that the report can tell them apart");
        self.problems.add_with(span, "again here", (*first, "first here"), diagnostic);
        true
    }

    fn refuse_inner_weights(&mut self, steps: &[written::Step]) {
        for weight in steps.iter().filter_map(|step| step.weight.as_ref()) {
            let diagnostic = Diagnostic::error("misplaced-weight", "a step within a flow has no weight of its own")
                .help("write the weight beside the flow's name: its steps are always taken in turn");
            self.problems.add(weight.span, "this can't have an effect", diagnostic);
        }
    }

    fn takes(&mut self, steps: &[written::Step], feeders: &Feeders) -> Takes {
        let mut takes = Takes { names: Vec::new(), spans: Vec::new() };
        for (at, step) in steps.iter().enumerate() {
            for (name, _) in &step.take.entries {
                let text = &name.value.0;
                let first = takes.names.iter().position(|(known, _)| known == text).map(|at| takes.spans[at]);
                if BUILT_IN.contains(&text.as_str()) || feeders.known.iter().any(|(feeder, _)| feeder == text) {
                    let diagnostic = Diagnostic::error("reserved-name", format!("\"{text}\" can't be taken"))
                        .help("a feeder or a word of templates is called so; take another name");
                    self.problems.add(name.span, "this name means something already", diagnostic);
                } else if let Some(first) = first {
                    let diagnostic =
                        Diagnostic::error("duplicate-name", format!("\"{text}\" is taken twice in one flow"))
                            .help("give one of them another name");
                    self.problems.add_with(name.span, "again here", (first, "first here"), diagnostic);
                }
                takes.names.push((text.clone(), at));
                takes.spans.push(name.span);
            }
        }
        takes
    }

    fn unused_takes(&mut self, takes: &Takes, ready: &[Step], steps: &[written::Step]) {
        if ready.len() != steps.len() || steps.iter().any(|step| step.damaged) {
            return; // What uses it may be what was refused.
        }
        for (at, (name, _)) in takes.names.iter().enumerate() {
            let is_used = ready.iter().flat_map(templates).any(|template| {
                template.pieces.iter().any(|piece| matches!(piece, Piece::Value(Value::Taken(taken)) if *taken == at))
            });
            if !is_used && self.problems.errors() == 0 {
                let diagnostic = Diagnostic::warning("unused-take", format!("no later step uses \"{name}\""))
                    .help(format!("write {{{{ {name} }}}} where it belongs, or leave it out"));
                self.problems.add(takes.spans[at], "taken for nothing", diagnostic);
            }
        }
    }

    fn step(
        &mut self,
        step: &written::Step,
        scenario: &Scenario,
        scope: &Scope<'_>,
        feeders: &Feeders,
        origins: &mut Vec<(String, Span)>,
        used: &mut Vec<usize>,
    ) -> Option<Step> {
        let name = &step.name.value.0;
        let mut template = |text: &str, span: Span, stands: Stands, checker: &mut Self| {
            let template = template::parse(text, span, scope, checker.problems);
            checker.values_fit(&template, stands, span, feeders);
            used.extend(template.feeders());
            template
        };
        let request = self.request(step);
        let mut headers = Vec::new();
        let common = scenario.client.iter().flat_map(|client| &client.headers.entries);
        let own = |name: &HeaderName| step.headers.entries.iter().any(|(own, _)| own.value == *name);
        let before = self.problems.errors();
        let refused = self.common_refused;
        for (name, value) in common.filter(|(name, _)| !own(&name.value) && !refused) {
            let Some(value) = value else { continue };
            self.header(name, value);
            headers.push((name.value.0.clone(), template(&value.value.0, value.span, Stands::Header, self)));
        }
        self.common_refused |= self.problems.errors() > before;
        for (name, value) in &step.headers.entries {
            let Some(value) = value else { continue };
            self.header(name, value);
            headers.push((name.value.0.clone(), template(&value.value.0, value.span, Stands::Header, self)));
        }
        let body = step.body.as_ref().map(|body| template(&body.value.0, body.span, Stands::Body, self));
        let checks = step.check.as_ref().map(|check| self.checks(check)).unwrap_or_default();
        let takes =
            step.take.entries.iter().filter_map(|(name, from)| {
                Some(Take { name: name.value.0.clone(), from: from.as_ref()?.value.0.clone() })
            });
        let takes: Vec<Take> = takes.collect();
        let (method, url, span) = request?;
        let target = template(&url.target, span, Stands::Target, self);
        let origin = match (&url.origin, &scenario.target) {
            (Some(origin), _) => {
                origins.push((origin.host.clone(), span));
                origin.clone()
            }
            (None, Some(target)) => target.value.0.clone(),
            (None, None) => {
                if !scenario.damaged {
                    let message = format!("step \"{name}\" has a path, and the scenario has no target");
                    let diagnostic = Diagnostic::error("no-target", message)
                        .help("write target: https://shop.example.com at the top level, or a whole URL here");
                    self.problems.add(span, "the host isn't known", diagnostic);
                }
                return None;
            }
        };
        if let Some(body) = step.body.as_ref().filter(|_| matches!(method.as_str(), "GET" | "HEAD")) {
            let message = format!("step \"{name}\" sends a body with {method}");
            let diagnostic = Diagnostic::warning("odd-body", message).help("did you mean post?");
            self.problems.add(body.span, "most servers pay no attention to it", diagnostic);
        }
        let common = scenario.client.as_ref().and_then(|client| client.timeout.as_ref());
        let timeout = step.timeout.as_ref().or(common).map_or(Step::TIMEOUT, |timeout| timeout.value.0);
        Some(Step {
            method,
            headers,
            body,
            timeout,
            checks,
            takes,
            think: step.think.as_ref().map(|think| think.value.0),
            ..Step::get(name.clone(), origin, target)
        })
    }

    /// The method and the URL of a step.
    fn request(&mut self, step: &written::Step) -> Option<(String, UrlOrPath, Span)> {
        let methods = [
            ("get", &step.get),
            ("head", &step.head),
            ("post", &step.post),
            ("put", &step.put),
            ("patch", &step.patch),
            ("delete", &step.delete),
            ("options", &step.options),
        ];
        let send = step.send.iter().map(|send| (send.value.method.clone(), send.value.url.clone(), send.span));
        let mut given: Vec<(String, UrlOrPath, Span)> = methods
            .into_iter()
            .filter_map(|(method, url)| {
                let url = url.as_ref()?;
                Some((method.to_uppercase(), url.value.clone(), url.span))
            })
            .chain(send)
            .collect();
        let name = &step.name.value.0;
        match given.len() {
            0 if step.damaged => None,
            0 => {
                let diagnostic = Diagnostic::error("no-request", format!("step \"{name}\" sends nothing"))
                    .help("write get: /, post: /login or send: PURGE /item/7");
                self.problems.add(step.span, "the request is missing here", diagnostic);
                None
            }
            1 => given.pop(),
            _ => {
                let diagnostic = Diagnostic::error("two-requests", format!("step \"{name}\" sends two requests"))
                    .help("make them two steps of a flow: steps: [{…}, {…}]");
                self.problems.add_with(given[1].2, "and this", (given[0].2, "this"), diagnostic);
                None
            }
        }
    }

    fn header(&mut self, name: &At<HeaderName>, value: &At<Filled>) {
        let text = &name.value.0;
        if FRAMING.contains(&text.as_str()) {
            let diagnostic = Diagnostic::error("framing-header", format!("header \"{text}\" can't be chosen"))
                .help("leave it out: it follows from the body and the connection");
            self.problems.add(name.span, "this says where a message ends or how it is carried", diagnostic);
        }
        if text == "host" && value.value.0.contains("{{") {
            let diagnostic = Diagnostic::error("template-in-host", "a template can't choose the host")
                .help("write the host out: which hosts a run speaks of is known before it starts");
            self.problems.add(value.span, "this is filled anew for each request", diagnostic);
        }
        if let Err(wrong) = HeaderValue::parse(&value.value.0) {
            let mut diagnostic =
                Diagnostic::error(HeaderValue::CODE, format!("header \"{text}\" isn't {}", HeaderValue::WHAT));
            diagnostic.help = wrong.help;
            self.problems.add(value.span, wrong.label, diagnostic);
        }
    }

    fn checks(&mut self, check: &written::Check) -> Vec<Check> {
        let mut ready = Vec::new();
        if let Some(many) = &check.status {
            let mut statuses: Vec<u16> = many.items.iter().flat_map(|at| at.value.0.0..=at.value.0.1).collect();
            statuses.sort_unstable();
            statuses.dedup();
            ready.push(Check::Status(statuses));
        }
        for (name, wanted) in &check.headers.entries {
            let regex = match wanted {
                None => continue,
                Some(ValueMatch::Present) => None,
                Some(ValueMatch::Exact(text)) => word::regex(&format!("^{}$", regex::escape(&text.value.0))).ok(),
                Some(ValueMatch::Regex(text)) => word::regex(&text.value.0).ok(),
            };
            ready.push(Check::Header(name.value.0.clone(), regex));
        }
        if let Some(regex) = check.body.as_ref().and_then(|body| word::regex(&body.value.0).ok()) {
            ready.push(Check::Body(regex));
        }
        for (path, wanted) in &check.json.entries {
            let wanted = match wanted {
                None => continue,
                Some(ValueMatch::Present) => None,
                Some(ValueMatch::Exact(text)) => Some(text.value.0.clone()),
                Some(ValueMatch::Regex(regex)) => {
                    let diagnostic = Diagnostic::error("bad-check", "what a JSON path finds is compared as a whole")
                        .help("write the value, {present: true}, or check.body for a regular expression");
                    self.problems.add(regex.span, "a regular expression isn't possible here", diagnostic);
                    continue;
                }
            };
            ready.push(Check::Json(path.value.0.clone(), wanted));
        }
        if let Some(most) = &check.at_most {
            ready.push(Check::AtMost(most.value.0));
            if most.value.0 > BODY_KEPT as u64 && (check.body.is_some() || !check.json.entries.is_empty()) {
                let message = format!("checks look at the first {BODY_KEPT} bytes of a body that may be longer");
                self.problems.add(most.span, "more than that may come", Diagnostic::warning("long-body", message));
            }
        }
        ready
    }

    /// Rows that a template takes values from can stand where it puts them.
    fn values_fit(&mut self, template: &Template, stands: Stands, span: Span, feeders: &Feeders) {
        for (at, piece) in template.pieces.iter().enumerate() {
            let Piece::Value(Value::Fed { feeder, field }) = piece else { continue };
            let Some(feeder) = feeders.ready.get(*feeder).filter(|feeder| !feeder.fields.is_empty()) else { continue };
            let fits = |value: &[u8]| match stands {
                Stands::Target => at > 0 || value.starts_with(b"/"),
                Stands::Header => value.iter().all(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 127),
                Stands::Body => true,
            };
            let Some(row) = (0..feeder.rows.len()).find(|row| !fits(feeder.rows.value(*row, *field))) else { continue };
            let named = format!("{}.{}", feeder.name, feeder.fields[*field]);
            let (message, help) = match stands {
                Stands::Target => (
                    format!("row {} of \"{named}\" doesn't begin with /", row + 1),
                    format!("write \"/{{{{ {named} }}}}\", or mend the file"),
                ),
                _ => (
                    format!("row {} of \"{named}\" holds a line break or control character", row + 1),
                    "mend the file".into(),
                ),
            };
            let diagnostic = Diagnostic::error("unfit-value", message).help(help);
            let label = if stands == Stands::Target { "a path begins with its value" } else { "it stands in a header" };
            self.problems.add(span, label, diagnostic);
        }
    }
}

/// Takes of a flow, in turn: names with the index of their step, and where they stand.
struct Takes {
    names: Vec<(String, usize)>,
    spans: Vec<Span>,
}

/// All templates of a step.
fn templates(step: &Step) -> impl Iterator<Item = &Template> {
    step.headers.iter().map(|(_, value)| value).chain([&step.target]).chain(&step.body).chain(&step.messages)
}
