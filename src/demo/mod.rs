//! `tidegate demo`: a shop, a gateway and visitors on this machine.
//!
//! The parent process holds the visitors and the view; the gateway and each
//! instance of the shop are children of the same binary, so that killing one is
//! as real as it gets.
//!
//! # Invariants
//!
//! - No child outlives the demo, not even one that was stopped by `kill -9`.
//! - Nothing is written outside the demo's folder.

mod crew;
mod site;
mod summary;
mod visitors;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crew::Crew;
use site::Site;
use visitors::Visitors;

use crate::duration;

/// How often the crew is looked after, and a plain view prints a line.
const TICK: Duration = Duration::from_secs(1);

/// A run with `--for` has served its traffic when at least this share of the intended requests was
/// answered, in percent. A busy machine may well miss some; a broken gateway misses nearly all.
const SERVED_PERCENT: u64 = 25;

/// Run the whole thing on this machine, with a shop behind it
#[derive(clap::Args)]
pub struct Args {
    /// Run this long (`20s`, `2m`), print a table, and exit 0 only if the traffic was served without a failure
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::read)]
    span: Option<Duration>,
    /// Keep certificates, configuration, history and logs in this folder [default: a temporary one]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Requests per second that the visitors send
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    rate: u32,
    /// Print a line each second instead of the live view
    #[arg(long)]
    plain: bool,
}

/// Runs the command.
///
/// # Errors
///
/// When the folder can't be written, or a child doesn't start.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    // The runtime's main future stays on this thread. Children must be started from it: the kernel kills
    // them when the *thread* that started them ends.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let code = runtime.block_on(play(args));
    runtime.shutdown_background();
    code
}

async fn play(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let site = Arc::new(Site::build(args.dir.as_deref())?);
    let mut crew = Crew::start(&site)?;
    tokio::select! {
        ready = crew.until_ready(&site) => ready?,
        _ = interrupt.recv() => return Ok(ExitCode::FAILURE),
        _ = terminate.recv() => return Ok(ExitCode::FAILURE),
    }
    println!("{}", site.invitation(&crew.pids()));

    let began = Instant::now();
    let visitors = Visitors::send(&site, args.rate)?;
    let live = !args.plain && args.span.is_none() && std::io::stdout().is_terminal();
    let mut view = if live { Some(open_view(&site)) } else { None };
    let end = args.span.map(|span| tokio::time::Instant::now() + span);
    let mut tick = tokio::time::interval(TICK);
    tick.tick().await; // The first one is immediate.
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let news = crew.look_after(Instant::now());
                if !live {
                    news.iter().for_each(|line| println!("{line}"));
                    println!("{}", summary::line(began.elapsed(), &visitors.take_second()));
                }
            }
            closed = async { view.as_mut().expect("guarded").await }, if view.is_some() => {
                closed.context("the live view broke")??;
                break;
            }
            () = async { tokio::time::sleep_until(end.expect("guarded")).await }, if end.is_some() => break,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }

    let elapsed = began.elapsed();
    let tally = visitors.leave().await;
    crew.stop().await;
    println!("\n{}", summary::table(elapsed, &tally));
    site.farewell().into_iter().for_each(|line| println!("{line}"));

    let intended = u64::from(args.rate) * elapsed.as_secs();
    let served = tally.succeeded() > 0 && tally.succeeded() * 100 >= intended * SERVED_PERCENT;
    if args.span.is_none() || (served && tally.failed() == 0) {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "error: the traffic was not served: {} of about {intended} requests succeeded, {} failed",
        tally.succeeded(),
        tally.failed()
    );
    Ok(ExitCode::FAILURE)
}

/// Opens `tidegate top` on a thread of its own: it blocks until it is closed.
fn open_view(site: &Site) -> tokio::task::JoinHandle<anyhow::Result<()>> {
    let (admin, notes) = (site.admin.to_string(), site.notes());
    tokio::task::spawn_blocking(move || crate::top::live(&admin, notes))
}

/// Asks the kernel to kill this process when the thread that started it ends, so that it can't outlive a
/// parent that was killed. A parent that died before this call goes unnoticed.
pub fn end_with_parent() {
    if let Err(err) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        eprintln!("warning: this process may outlive its parent: {err}");
    }
}
