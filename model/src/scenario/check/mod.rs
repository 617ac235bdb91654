//! `Scenario → Plan`, or every diagnostic at once.
//!
//! # Invariants
//!
//! - Having a [`Plan`] is proof: what its documentation promises holds.
//! - Where requests go is fixed before the first one is sent: no template chooses a host.
//! - Never panics, whatever the text.
//!
//! # Not here
//!
//! Files: feeders are read by whoever calls, through a function that is passed in.

mod feeder;
mod flow;
mod load;

use std::path::{Path as FsPath, PathBuf};

use super::plan::{Client, Comparison, Mark, Plan, Protocol, Threshold};
use super::written::{self, Scenario};
use crate::check::SourceFile;
use crate::config::decode::{Decode, Path};
use crate::config::{At, Many};
use crate::desired::HostPattern;
use crate::diagnostic::Diagnostic;
use crate::problems::{Problems, Span, suggest};
use crate::yaml;
pub use feeder::{BadFile, Table};

/// A scenario that was accepted.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What it means.
    pub plan: Plan,
    /// What was accepted, but probably isn't what was meant.
    pub warnings: Vec<Diagnostic>,
}

/// Reads a feeder's file.
pub type ReadFeeder<'r> = &'r mut dyn FnMut(&FsPath) -> Result<Table, BadFile>;

/// Checks the scenario in `file`. Relative paths inside are resolved against its folder; feeders' files are read by `read`.
///
/// # Errors
///
/// Every problem found, in the order of the file. Warnings are among them.
pub fn check(file: &SourceFile, read: ReadFeeder<'_>) -> Result<Checked, Vec<Diagnostic>> {
    let mut problems = Problems::new(std::slice::from_ref(file));
    let scenario = decode(&mut problems);
    let plan = scenario.map(|scenario| {
        let folder = file.path.parent().map(FsPath::to_path_buf).unwrap_or_default();
        let title = file.path.file_stem().map_or("load".into(), |stem| stem.to_string_lossy().into_owned());
        Checker { problems: &mut problems, folder, common_refused: false }.scenario(&scenario, title, read)
    });
    match plan {
        Some(plan) if problems.errors() == 0 => Ok(Checked { plan, warnings: problems.finish() }),
        _ => Err(problems.finish()),
    }
}

fn decode(problems: &mut Problems<'_>) -> Option<Scenario> {
    let root = yaml::parse(0, problems);
    match root {
        Some(root) if !root.is_null() => Scenario::decode(&root, &Path::root("the scenario"), problems),
        _ if problems.errors() > 0 => None,
        _ => {
            let start = Span { file: 0, line: 1, column: 1, length: 1 };
            let diagnostic = Diagnostic::error("empty", "there is no scenario here")
                .help("begin with \"version: 1\"; configs/load/ holds small examples");
            problems.add(start, "nothing is written here", diagnostic);
            None
        }
    }
}

/// Checks what values mean together.
struct Checker<'p, 'f> {
    problems: &'p mut Problems<'f>,
    folder: PathBuf,
    /// A header that all requests have was refused: it needn't be again for each of them.
    common_refused: bool,
}

impl Checker<'_, '_> {
    fn scenario(&mut self, scenario: &Scenario, title: String, read: ReadFeeder<'_>) -> Plan {
        let load = self.load(&scenario.load);
        let feeders = self.feeders(&scenario.feeders, read);
        let client = self.client(scenario.client.as_ref(), &load);
        let flows = self.flows(scenario, &feeders);
        let thresholds = scenario.thresholds.iter().flat_map(|many| &many.items);
        let stops = scenario.stop.iter().flat_map(|many| &many.items);
        for (condition, span) in thresholds
            .clone()
            .map(|at| (&at.value.0, at.span))
            .chain(stops.clone().map(|at| (&at.value.0.when, at.span)))
        {
            self.condition(condition, span, &flows.step_names);
        }
        if let Some(interlocks) = &scenario.interlocks {
            self.interlocks(interlocks, scenario, &flows, &load);
        }
        self.enough_rows(&feeders, &flows, &load);
        Plan {
            name: scenario.name.as_ref().map_or(title, |name| name.value.0.clone()),
            load,
            flows: flows.ready,
            feeders: feeders.ready,
            client,
            thresholds: thresholds.map(|condition| condition.value.0.clone()).collect(),
            stops: stops.map(|stop| stop.value.0.clone()).collect(),
            mark: scenario
                .mark
                .as_ref()
                .map(|mark| Mark { run: mark.run.value.0.clone(), key: self.folder.join(&mark.key.value.0) }),
            seed: scenario.seed.as_ref().map_or(1, |seed| seed.value.0),
        }
    }

    fn client(&mut self, written: Option<&written::Client>, load: &super::plan::Load) -> Client {
        let visitors = match load {
            super::plan::Load::Closed { visitors, .. } => Some(*visitors),
            _ => None,
        };
        let mut client = Client { connections: visitors.unwrap_or(Client::CONNECTIONS), ..Client::default() };
        let Some(written) = written else { return client };
        let flag = |at: &Option<At<crate::literal::Flag>>, or: bool| at.as_ref().map_or(or, |at| at.value.0);
        let http2 = flag(&written.http2, false);
        client.protocol = if http2 { Protocol::Http2 } else { Protocol::Http1 };
        client.keep_alive = flag(&written.keep_alive, true);
        client.insecure = flag(&written.insecure, false);
        if let Some(connections) = &written.connections {
            client.connections = connections.value.0 as u32;
            if let Some(visitors) = visitors.filter(|visitors| *visitors > client.connections && !http2) {
                let message = format!("{visitors} visitors share {} connections", client.connections);
                let diagnostic = Diagnostic::warning("few-connections", message)
                    .help("leave connections out, so that each visitor has one")
                    .note("visitors then wait for each other, and the target for them");
                self.problems.add(connections.span, "a request in HTTP/1.1 has its connection to itself", diagnostic);
            }
        }
        if let Some(streams) = &written.streams {
            client.streams = streams.value.0 as u32;
            if !http2 && !written.damaged {
                let diagnostic = Diagnostic::error("useless-key", "client.streams says nothing without HTTP/2")
                    .help("add http2: true, or leave it out");
                self.problems.add(streams.span, "HTTP/1.1 has no streams", diagnostic);
            }
        }
        client.threads = written.threads.as_ref().map_or(0, |threads| threads.value.0 as u32);
        client.sources = written.sources.iter().flat_map(|many| &many.items).map(|source| source.value.0).collect();
        for (host, address) in &written.resolve.entries {
            if let Some(address) = address {
                client.resolve.insert(host.value.0.clone(), address.value.0);
            }
        }
        if let Some(timeout) = &written.connect_timeout {
            client.connect_timeout = timeout.value.0;
        }
        client.ca = written.ca.as_ref().map(|ca| self.folder.join(&ca.value.0));
        client
    }

    /// A threshold or the condition of a stop names a step that is there, and can hold at all.
    fn condition(&mut self, condition: &Threshold, span: Span, steps: &[(String, Span)]) {
        if let Some(step) = &condition.step
            && !steps.iter().any(|(known, _)| known == step)
        {
            let mut diagnostic =
                Diagnostic::error("unknown-step", format!("a threshold names step \"{step}\", which isn't defined"));
            diagnostic.help = suggest(step, steps.iter().map(|(name, _)| name.as_str()));
            // Quotes push the text one to the right.
            let quote = usize::from(span.length as usize == condition.text.chars().count() + 2);
            self.problems.add(span.part(quote, step.chars().count()), "no step has this name", diagnostic);
        }
        if condition.is == Comparison::Less && condition.bound <= 0.0 {
            let diagnostic = Diagnostic::error("impossible-threshold", "nothing is less than zero")
                .help(format!("write \"{}\"", condition.text.replacen('<', "<=", 1)));
            self.problems.add(span, "this can never hold", diagnostic);
        }
        if condition.is == Comparison::More
            && condition.bound >= 1.0
            && condition.measure == super::plan::Measure::Errors
        {
            let diagnostic = Diagnostic::error("impossible-threshold", "no more than all requests can fail");
            self.problems.add(span, "this can never hold", diagnostic);
        }
    }

    fn interlocks(
        &mut self,
        interlocks: &written::Interlocks,
        scenario: &Scenario,
        flows: &flow::Flows,
        load: &super::plan::Load,
    ) {
        if let Some(hosts) = &interlocks.hosts {
            self.hosts(hosts, scenario, flows);
        }
        let Some(most) = &interlocks.max_rate else { return };
        if most.value.0 <= 0.0 {
            let diagnostic = Diagnostic::error("bad-rate", "interlocks.max_rate lets nothing through")
                .help("write the highest rate that is all right, such as 2000/s");
            self.problems.add(most.span, "a rate of zero sends nothing", diagnostic);
            return;
        }
        let Some(peak) = load::peak(load) else {
            let diagnostic =
                Diagnostic::error("no-rate", "interlocks.max_rate can't be held by visitors that begin anew")
                    .help("write load: {rate: …}, whose rate is known before it starts");
            let span = scenario.load.visitors.as_ref().map_or(scenario.load.span, |visitors| visitors.span);
            let related = (most.span, "the highest rate is here");
            self.problems.add_with(span, "how fast they are depends on the target", related, diagnostic);
            return;
        };
        let each = mean_steps(&flows.ready);
        let requests = peak * each;
        if requests > most.value.0 * (1.0 + 1e-9) {
            let message = match each == 1.0 {
                true => format!("{} requests a second are more than interlocks.max_rate", short(requests)),
                false => format!(
                    "{} flows a second of {} steps each are {} requests a second, more than interlocks.max_rate",
                    short(peak),
                    short(each),
                    short(requests)
                ),
            };
            let diagnostic = Diagnostic::error("rate-too-high", message)
                .help("lower the rate, or raise max_rate when the owner of the target agrees");
            let written = scenario.load.rate.as_ref().map(|rate| rate.span);
            let staged = scenario.load.stages.iter().flatten().filter_map(|stage| stage.to.as_ref());
            let highest = staged.max_by(|a, b| a.value.0.total_cmp(&b.value.0)).map(|to| to.span);
            let span = written.or(highest).unwrap_or(scenario.load.span);
            self.problems.add_with(span, "this is the rate", (most.span, "this is the highest"), diagnostic);
        }
    }

    fn hosts(&mut self, hosts: &Many<At<crate::literal::HostMatch>>, scenario: &Scenario, flows: &flow::Flows) {
        let allowed = |host: &str| {
            hosts.items.iter().any(|pattern| match &pattern.value.0 {
                None => true,
                Some(HostPattern::Exact(name)) => name.trim_start_matches('[').trim_end_matches(']') == host,
                Some(HostPattern::Wildcard(name)) => {
                    host.strip_suffix(name.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
                }
            })
        };
        let target = scenario.target.iter().map(|target| (target.value.0.host.clone(), target.span));
        let mut seen: Vec<&str> = Vec::new();
        let named: Vec<(String, Span)> = target.chain(flows.origins.iter().cloned()).collect();
        for (host, span) in &named {
            if allowed(host) || seen.contains(&host.as_str()) {
                continue;
            }
            seen.push(host);
            let diagnostic = Diagnostic::error("host-not-allowed", format!("\"{host}\" isn't among interlocks.hosts"))
                .help("add it when its owner agrees to be tested");
            self.problems.add_with(*span, "requests would go here", (hosts.span, "only these are allowed"), diagnostic);
        }
    }
}

/// Steps of a flow, on average over the weights.
pub(crate) fn mean_steps(flows: &[super::plan::Flow]) -> f64 {
    let weights: f64 = flows.iter().map(|flow| flow.weight).sum();
    let steps: f64 = flows.iter().map(|flow| flow.weight * flow.steps.len() as f64).sum();
    if weights > 0.0 { steps / weights } else { 1.0 }
}

/// A number for people: whole where it is, else with up to two digits behind the point.
pub(crate) fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Client {
    /// Connections where nothing else is said.
    pub const CONNECTIONS: u32 = 1_000;
}

impl Default for Client {
    fn default() -> Self {
        Self {
            protocol: Protocol::Http1,
            keep_alive: true,
            connections: Self::CONNECTIONS,
            streams: 100,
            threads: 0,
            sources: Vec::new(),
            resolve: std::collections::BTreeMap::new(),
            connect_timeout: std::time::Duration::from_secs(5),
            ca: None,
            insecure: false,
        }
    }
}
