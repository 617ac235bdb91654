//! `tidegate load import`: a scenario from an access log, a recording or a HAR file.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use tidegate_loadgen::import::{self, Choice};
use tidegate_model::literal::Literal as _;
use tidegate_model::scenario::word::WholeUrl;

/// Make a scenario from an access log, a recording or a HAR file
///
/// Logs (nginx and Apache combined or common, the gateway's own) and recordings become flows weighted by how often each
/// kind of request came; a HAR file of a browser becomes one flow with the visitor's pauses. Cookies and credentials
/// stay behind.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidegate load import /var/log/nginx/access.log --target https://staging.example.com -o shop.yaml
  tidegate load import checkout.har -o checkout.yaml --unsafe-methods")]
pub struct Args {
    /// The log, recording or HAR file
    #[arg(value_name = "FILE")]
    path: PathBuf,
    /// Where the scenario sends to, such as `https://staging.example.com` [default: where the requests went, if the file says so]
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// Where the scenario is written; feeders' files go beside it [default: FILE with .yaml, in this folder]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Overwrite files that are there
    #[arg(long)]
    force: bool,
    /// Take methods that may change something, too: POST, PUT, DELETE, …
    #[arg(long)]
    unsafe_methods: bool,
    /// Of a HAR file, take requests to other hosts than the first, too
    #[arg(long)]
    all_hosts: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let choice = Choice { unsafe_methods: args.unsafe_methods, all_hosts: args.all_hosts };
    let traffic = import::read(&args.path, choice)?;
    let seen = traffic.requests.iter().map(|request| request.origin.as_str()).find(|origin| !origin.is_empty());
    let Some(target) = args.target.as_deref().or(seen) else {
        bail!("this {} doesn't say where its requests went: add --target https://…", traffic.format.text());
    };
    let origin =
        WholeUrl::parse(target).map_err(|wrong| anyhow::anyhow!("the target \"{target}\": {}", wrong.label))?.0;
    let default = || {
        let name = args.path.file_stem().unwrap_or_default();
        Path::new(name).with_extension("yaml")
    };
    let out = args.out.clone().unwrap_or_else(default);
    let written = import::scenario::write(&traffic, &out, &args.path, &origin.to_string());
    let folder = out.parent().unwrap_or(Path::new(""));
    let mut files = vec![(out.clone(), written.scenario)];
    files.extend(written.files.into_iter().map(|(name, text)| (folder.join(name), text)));
    if let Some((there, _)) = files.iter().find(|(path, _)| path.exists() && !args.force) {
        bail!("{} is there already; --force overwrites it", there.display());
    }
    for (path, text) in &files {
        std::fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))?;
    }
    let mut tell = io::stdout().lock();
    let many = traffic.requests.len();
    writeln!(tell, "{many} requests taken from this {}", traffic.format.text())?;
    for note in traffic.notes.iter().chain(&written.notes) {
        writeln!(tell, "  {note}")?;
    }
    for (path, _) in &files {
        writeln!(tell, "wrote {}", path.display())?;
    }
    writeln!(tell, "next: tidegate load check {}", out.display())?;
    Ok(ExitCode::SUCCESS)
}
