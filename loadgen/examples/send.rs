//! The engine by itself, for profiling: `send ADDRESS:PORT (visitors N | rate N) SECONDS [http2]`. Prints counts, times
//! and the processor time that the whole process used for each request.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_loadgen::Start;
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Client, Flow, Load, Origin, Protocol, Spacing, Stage, Step, Template};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, model, number, seconds, rest @ ..] = args.as_slice() else {
        anyhow::bail!("usage: send ADDRESS:PORT (visitors N | rate N) SECONDS [http2]");
    };
    let address: std::net::SocketAddr = address.parse()?;
    let lasts = Duration::from_secs_f64(seconds.parse()?);
    let load = if model == "visitors" {
        Load::Closed { visitors: number.parse()?, lasts }
    } else {
        let rate = number.parse()?;
        let stages = vec![Stage { lasts, from: rate, to: rate }];
        Load::Open { stages, spacing: Spacing::Even, most_in_flight: 10_000 }
    };
    let origin = Origin { tls: false, host: address.ip().to_string(), port: address.port() };
    let http2 = rest.iter().any(|word| word == "http2");
    let plan = Plan {
        name: "send".to_owned(),
        load,
        flows: vec![Flow {
            name: "get".to_owned(),
            weight: 1.0,
            steps: vec![Step::get("get", origin, Template::text("/"))],
        }],
        feeders: Vec::new(),
        client: Client {
            protocol: if http2 { Protocol::Http2 } else { Protocol::Http1 },
            keep_alive: true,
            connections: if http2 { 1 } else { 10_000 },
            streams: 100,
            threads: 0,
            sources: Vec::new(),
            resolve: BTreeMap::new(),
            connect_timeout: Duration::from_secs(5),
            ca: None,
            insecure: false,
        },
        thresholds: Vec::new(),
        stops: Vec::new(),
        mark: None,
        seed: 1,
    };
    let outcome = tidegate_loadgen::run(&plan, &Start::default(), &mut |_| ())?;
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    println!(
        "due {} sent {} unsent {} good {} cpu_s {cpu:.3} per_cpu_s {:.0} memory_kib {}",
        outcome.all.due,
        outcome.all.sent,
        outcome.all.unsent,
        outcome.all.good,
        outcome.all.good as f64 / cpu,
        outcome.generator.memory / 1_024
    );
    for (what, times) in [("response", &outcome.all.response), ("lag", &outcome.generator.lag)] {
        println!("{what} mean {:.0} ns {:?}", times.mean, times.quantiles);
    }
    println!("{:?} {:?}", outcome.all.failures, outcome.all.examples);
    Ok(())
}
