//! `tidegate record`: writes live requests down as they come through a running gateway, for a replay.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tidegate_gateway::recording::{LARGEST_BODY, LONGEST};
use tidegate_model::literal::{Literal, Sample, Size, write_duration};
use tidegate_model::scenario::recording::{LINE_BYTES, Line, read_line};

use crate::ask::Which;
use crate::duration;

/// Write live requests down as they come through a running gateway, for `tidegate load replay`
///
/// Requests that were carried to an endpoint are recorded, with their headers and bodies; dyed ones and WebSockets are
/// not. Secrets are taken out by the gateway: credentials, cookies, and everything whose name says that it is one.
/// Visitors wait for nothing: what can't be written in time is left out and counted.
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 recorded to the end, 1 no gateway answered, or the recording broke off.

Examples:
  tidegate record --route shop --for 60s --out shop.jsonl
  tidegate record --for 10m --sample 1% --body-max 4KiB --redact x-customer,email --out some.jsonl
  tidegate record --route shop --for 5s | jq .target")]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Only requests that this route takes [default: of every route]
    #[arg(long, value_name = "ROUTE")]
    route: Option<String>,
    /// For how long, 1h at most
    #[arg(long = "for", value_name = "TIME", value_parser = duration::read, default_value = "60s")]
    lasts: Duration,
    /// The file to write; it must not be there yet [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Bodies longer than this are left out, 4MiB at most
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64KiB")]
    body_max: u64,
    /// Names of further headers, parameters and fields whose values are taken out
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    redact: Vec<String>,
    /// Which share of the requests
    #[arg(long, value_name = "SHARE", value_parser = sample, default_value = "100%")]
    sample: u32,
}

/// Time to connect, and for the gateway's answer to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often somebody who watches is told how far it is.
const TELL: Duration = Duration::from_secs(1);

/// Bytes of the answer's head.
const HEAD: u64 = 16 << 10;

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.lasts > LONGEST {
        bail!("a recording lasts {} at most", write_duration(LONGEST));
    }
    let address = args.which.address()?;
    let mut stream = begin(address, &args)?;
    let mut out: Box<dyn Write> = match &args.out {
        Some(path) => {
            let file = File::create_new(path).with_context(|| format!("could not create {}", path.display()))?;
            Box::new(io::BufWriter::new(file))
        }
        None => Box::new(io::stdout().lock()),
    };
    let watched = args.out.is_some() && io::stderr().is_terminal();
    let (mut line, mut requests, mut told) = (Vec::new(), 0_u64, Instant::now());
    let end = loop {
        line.clear();
        // A line is bounded, and so is what is read for one.
        (&mut stream).take(LINE_BYTES as u64 + 1).read_until(b'\n', &mut line).context("the gateway broke off")?;
        if line.is_empty() {
            break None;
        }
        out.write_all(&line)?;
        match read_line(String::from_utf8_lossy(&line).trim_end()) {
            Ok(Line::End(end)) => break Some(end),
            Ok(Line::Request(_)) => requests += 1,
            Ok(Line::Head(_)) => {}
            Err(wrong) => bail!("the gateway's answer isn't a recording: {wrong}"),
        }
        if args.out.is_none() {
            out.flush()?; // Somebody reads along.
        }
        if watched && told.elapsed() >= TELL {
            told = Instant::now();
            eprint!("\r{requests} requests");
        }
    };
    out.flush()?;
    if watched {
        eprint!("\r");
    }
    let Some(end) = end else { bail!("the recording broke off after {requests} requests; what there is can be used") };
    let took = write_duration(Duration::from_micros(end.took_us));
    let file = args.out.map(|path| format!(" in {}", path.display())).unwrap_or_default();
    eprintln!("{} requests in {took}{file}, {} lost", end.requests, end.lost);
    Ok(ExitCode::SUCCESS)
}

/// Asks for the recording; its lines are what is left to be read.
fn begin(address: SocketAddr, args: &Args) -> anyhow::Result<BufReader<TcpStream>> {
    let nobody = || {
        format!(
            "no gateway answered at its admin address {address}; is it running, with this address under admin.bind?"
        )
    };
    let mut query = format!("for_ms={}&sample={}&body_max={}", args.lasts.as_millis(), args.sample, args.body_max);
    for (name, value) in
        args.route.iter().map(|route| ("route", route)).chain(args.redact.iter().map(|it| ("redact", it)))
    {
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            bail!("\"{value}\" can't be the name of a {}", if name == "route" { "route" } else { "field" });
        }
        query.push_str(&format!("&{name}={value}"));
    }
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(nobody)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // HTTP/1.0, so that the lines end with the connection and aren't chunked.
    write!(stream, "POST /record?{query} HTTP/1.0\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n")
        .with_context(nobody)?;
    let mut stream = BufReader::new(stream);
    let (mut status, mut line) = (None, String::new());
    let mut left = HEAD;
    loop {
        line.clear();
        let read = (&mut stream).take(left).read_line(&mut line).with_context(nobody)?;
        left = left.saturating_sub(read as u64);
        status = status.or_else(|| line.split(' ').nth(1)?.parse::<u16>().ok());
        match line.trim_end() {
            "" if read > 0 => break,
            _ if read == 0 => bail!("{address} doesn't speak HTTP"),
            _ => {}
        }
    }
    match status {
        Some(200) => {
            // The last line comes when the time is up, and before it maybe nothing.
            stream.get_ref().set_read_timeout(Some(args.lasts + PATIENCE))?;
            Ok(stream)
        }
        Some(status) => {
            let mut said = String::new();
            (&mut stream).take(HEAD).read_to_string(&mut said)?;
            bail!("{address} answered {status}: {}", said.trim())
        }
        None => bail!("{address} doesn't speak HTTP"),
    }
}

fn size(text: &str) -> Result<u64, String> {
    let size = Size::parse(text).map_err(told)?.0;
    if size <= LARGEST_BODY { Ok(size) } else { Err("4MiB at most".into()) }
}

fn sample(text: &str) -> Result<u32, String> {
    let sample = Sample::parse(text).map_err(told)?.0;
    if (1..=10_000).contains(&sample) { Ok(sample) } else { Err("write a share from 0.01% to 100%".into()) }
}

fn told(wrong: tidegate_model::literal::Wrong) -> String {
    wrong.help.map(|help| format!("{}; {help}", wrong.label)).unwrap_or(wrong.label)
}
