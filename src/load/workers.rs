//! Who sends: this process, or workers elsewhere.

use std::path::PathBuf;

use anyhow::Context as _;
use tidegate_loadgen::distributed::{Key, coordinator};
use tidegate_loadgen::outcome::Outcome;
use tidegate_loadgen::{Beat, Start};
use tidegate_model::scenario::Plan;

/// Workers at most. Each is asked in turn before the start.
const MOST: usize = 256;

/// Who sends.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Workers")]
pub struct Workers {
    /// Send from these machines, each of which runs `tidegate load worker`, and add up what they find
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', requires = "key", value_parser = address)]
    workers: Vec<String>,
    /// The file with the secret that they share
    #[arg(long, value_name = "FILE", requires = "workers")]
    key: Option<PathBuf>,
}

fn address(text: &str) -> Result<String, String> {
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    port.filter(|port| *port > 0)
        .map(|_| text.to_owned())
        .ok_or_else(|| "expected host:port, such as 10.0.0.7:7600".into())
}

impl Workers {
    /// Runs `plan` there, or here where none are named.
    ///
    /// # Errors
    ///
    /// When the run could not start.
    pub fn run(&self, plan: &Plan, start: &Start, watch: &mut dyn FnMut(Beat<'_>)) -> anyhow::Result<Outcome> {
        let Some(key) = &self.key else { return Ok(tidegate_loadgen::run(plan, start, watch)?) };
        anyhow::ensure!(self.workers.len() <= MOST, "{} workers, of {MOST} at most", self.workers.len());
        let key = Key::read(key)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
        runtime.block_on(coordinator::run(plan, &self.workers, &key, &start.ender, watch))
    }
}
