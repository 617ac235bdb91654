//! `tidegate load`: sends requests by a schedule, and says how long the answers took.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tidegate_loadgen::judge;
use tidegate_loadgen::outcome::{Outcome, Verdict};
use tidegate_loadgen::{Beat, Cause, Ender, Start};
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Client, Flow, Load, Origin, Protocol, Spacing, Stage, Step, Template};

use crate::duration;

/// Send requests by a schedule, and say how long the answers took
///
/// With --rate, requests leave by an absolute schedule, however slow the target is, and times count from when each
/// should have left (open model). With --visitors, that many visitors each wait for an answer before they ask again
/// (closed model): times then leave out whatever a slow target kept them from asking.
#[derive(clap::Args)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  tidegate load http://127.0.0.1:8080/ -r 500 -d 30s
  tidegate load https://shop.example/ -c 50 -d 1m --http2"
)]
pub struct Args {
    /// What to ask for
    url: String,
    /// Requests a second
    #[arg(long, short, value_name = "N", conflicts_with = "visitors", value_parser = rate)]
    rate: Option<f64>,
    /// Visitors that each wait for an answer before they ask again
    #[arg(long, short = 'c', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    visitors: Option<u32>,
    /// For how long
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = duration::read)]
    duration: Duration,
    /// Speak HTTP/2
    #[arg(long)]
    http2: bool,
    /// Use a connection for each request
    #[arg(long)]
    no_keep_alive: bool,
    /// Believe any certificate
    #[arg(long)]
    insecure: bool,
    /// Threads that send [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// Print all that was found out as JSON
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number of requests a second".to_owned())?;
    if (0.001..=1_000_000.0).contains(&rate) { Ok(rate) } else { Err("expected 0.001 to 1000000".to_owned()) }
}

/// Runs the command.
///
/// # Errors
///
/// When the URL can't be read, or the run could not start.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let plan = plan(&args)?;
    let start = Start::default();
    end_on_interrupt(start.ender.clone())?;
    let mut watch = |beat: Beat<'_>| {
        let second = beat.second;
        let ms = |nanos: u64| nanos as f64 / 1e6;
        eprintln!(
            "{:>4} s  sent {:>7}  good {:>7}  failed {:>5}  unsent {:>5}  p50 {:.3} ms  p99 {:.3} ms",
            second.at + 1,
            second.sent,
            second.good,
            beat.all.failed(),
            second.unsent,
            ms(second.response[0]),
            ms(second.response[2]),
        );
    };
    let mut outcome = tidegate_loadgen::run(&plan, &start, &mut watch)?;
    judge::judge(&plan, &mut outcome);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        print(&outcome);
    }
    Ok(ExitCode::from(judge::exit_code(&outcome.verdict)))
}

/// The first interrupt ends the run; the second doesn't wait for what is open.
fn end_on_interrupt(ender: Ender) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().context("can't watch for signals")?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                ender.end(Cause::Interrupted);
            }
            if tokio::signal::ctrl_c().await.is_ok() {
                ender.hurry(Cause::Interrupted);
            }
        });
    })?;
    Ok(())
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let uri: http::Uri = args.url.parse().with_context(|| format!("can't read the URL {:?}", args.url))?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => bail!("the URL {:?} must begin with http:// or https://", args.url),
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    let origin = Origin { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) };
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let (load, connections) = match (args.visitors, args.rate) {
        (Some(visitors), _) => (Load::Closed { visitors, lasts: args.duration }, visitors),
        (None, rate) => {
            let rate = rate.unwrap_or(1.0);
            let most_in_flight = (rate * 10.0).clamp(1_000.0, 10_000.0) as u32;
            let stages = vec![Stage { lasts: args.duration, from: rate, to: rate }];
            (Load::Open { stages, spacing: Spacing::Even, most_in_flight }, most_in_flight)
        }
    };
    let step = Step::get("request", origin, Template::text(target));
    Ok(Plan {
        name: args.url.clone(),
        load,
        flows: vec![Flow { name: "request".to_owned(), weight: 1.0, steps: vec![step] }],
        feeders: Vec::new(),
        client: Client {
            protocol: if args.http2 { Protocol::Http2 } else { Protocol::Http1 },
            keep_alive: !args.no_keep_alive,
            connections,
            streams: 100,
            threads: args.threads.unwrap_or(0),
            sources: Vec::new(),
            resolve: std::collections::BTreeMap::default(),
            connect_timeout: Duration::from_secs(10),
            ca: None,
            insecure: args.insecure,
        },
        thresholds: Vec::new(),
        stops: Vec::new(),
        mark: None,
        seed: 1,
    })
}

fn print(outcome: &Outcome) {
    let all = &outcome.all;
    println!("{} · {} ({} model)", outcome.name, outcome.load, outcome.model);
    println!("due {} · sent {} · unsent {} · good {}", all.due, all.sent, all.unsent, all.good);
    for (name, times) in [("response", &all.response), ("service", &all.service), ("lag", &outcome.generator.lag)] {
        let quantiles: Vec<String> =
            times.quantiles.iter().map(|(q, nanos)| format!("p{} {:.3}", q * 100.0, *nanos as f64 / 1e6)).collect();
        println!("{name:>8} (ms): mean {:.3}  {}", times.mean / 1e6, quantiles.join("  "));
    }
    for (failure, count) in &all.failures {
        println!("{:>8} {} ({})", count, failure.text(), all.examples.get(failure).map_or("", String::as_str));
    }
    let cpu: Vec<String> = outcome.generator.threads.iter().map(|share| format!("{:.0} %", share * 100.0)).collect();
    if let Verdict::GeneratorLimited { reasons } = &outcome.verdict {
        reasons.iter().for_each(|reason| println!("generator-limited: {reason}"));
    }
    println!("generator: CPU of its threads {}, {} KiB of memory", cpu.join(", "), outcome.generator.memory / 1_024);
}
