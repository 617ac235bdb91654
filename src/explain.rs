//! `tidegate explain`: which route takes a request, where it goes, and why.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::json;
use tidegate_gateway::decide::{Head, explain::explain};
use tidegate_gateway::guard::dyed::Found;
use tidegate_gateway::guard::lists::Lists;
use tidegate_gateway::{material, source};
use tidegate_model::desired::{Desired, Purpose, Shadow};
use tidegate_model::target::{BadTarget, normalise};

use crate::{mark, print};

/// Tell which route and version would answer a request, and why
///
/// Nothing is sent: the configuration is read and asked, by the code that gateways decide with. Health and
/// limits depend on the moment; a running gateway's /snapshot shows them.
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 told (also when no route takes the request), 2 the configuration is refused.

Examples:
  tidegate explain --config edge.yaml https://shop.example.com/cart
  tidegate explain --config edge.yaml -X POST -H 'cookie: uid=42' https://shop.example.com/login
  tidegate explain --config edge.yaml --dyed spring-drill -X POST https://shop.example.com/orders
  tidegate explain --config edge.yaml --client 10.1.2.3 -H 'x-forwarded-for: 203.0.113.7' shop.example.com/")]
pub struct Args {
    /// Configuration file, or a folder of *.yaml files
    #[arg(long, short, value_name = "FILE|FOLDER")]
    config: PathBuf,
    /// The URL; without a scheme, https is meant
    url: String,
    /// The method
    #[arg(long, short = 'X', default_value = "GET")]
    method: Method,
    /// A header; may be given several times
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// The address that the connection comes from
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// Take the request for a dyed one of this run; else its x-pt header is verified
    #[arg(long, value_name = "RUN")]
    dyed: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let read = source::load(&args.config).and_then(|checked| {
        let lists = Lists::read(&checked.desired, &checked.places, &Lists::default())?;
        Ok((checked.desired, checked.places, lists))
    });
    let (desired, places, lists) = match read {
        Ok(read) => read,
        Err(problems) => {
            print::tell(&problems);
            return Ok(ExitCode::from(2));
        }
    };
    let url = parse(&args.url)?;
    let https = url.scheme_str() == Some("https");
    let mut headers: HeaderMap = HeaderMap::new();
    for (name, value) in args.header {
        headers.append(name, value);
    }
    let asked = headers.get(HOST).and_then(|host| host.to_str().ok()).and_then(|host| host.parse().ok());
    let authority = asked.or_else(|| url.authority().cloned()).context("the URL has no host")?;
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let asked = format!("{}{}", url.path(), url.query().map(|query| format!("?{query}")).unwrap_or_default());
    let target = match normalise(&asked, &desired.paths) {
        Ok(target) => target,
        Err(bad) => return refused(&format!("{} {host}{asked}", args.method), bad, args.json),
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*target, None),
    };
    let content_length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let (keys, mut problems) = (desired.dyed.as_ref(), Vec::new());
    let keys = keys.map(|spec| material::dyed_keys(spec, &places, &mut problems));
    if !problems.is_empty() {
        print::tell(&problems);
        return Ok(ExitCode::from(2));
    }
    let found = Found::read(&headers, &host, keys.as_ref(), mark::unix);
    let dyed = args.dyed.as_deref().or(found.run());
    let head = Head { method: &args.method, host: &host, path, query, headers: &headers, content_length, dyed };

    let peer = SocketAddr::new(args.client, 0);
    let explanation = explain(&desired, &lists, &head, peer, https, &mut rand::rng());
    let shadows = shadows(&desired, explanation.winner.as_ref().map(|winner| winner.route.as_str()));
    let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
    let redirect = redirect_listener(&desired, port);

    let mut out = io::stdout().lock();
    if args.json {
        let mut report = serde_json::to_value(&explanation)?;
        report["shadows"] = json!(shadows);
        if let Found::Refused { why, .. } = &found {
            report["mark_refused"] = json!(why.label());
        }
        report["redirect_listener"] = json!(redirect.map(|(name, _)| name));
        writeln!(out, "{report:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some((name, to)) = redirect {
        writeln!(out, "listener \"{name}\" sends everything on port {port} to https on port {to}; there:")?;
    }
    if let Found::Refused { why, .. } = &found {
        writeln!(out, "its mark of dyed traffic is taken off: {why}")?;
    }
    write!(out, "{explanation}")?;
    if !shadows.is_empty() {
        writeln!(out, "copied to\n  {}", shadows.join("\n  "))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells of a request whose target has no normal form, and that no route is asked about.
fn refused(request: &str, bad: BadTarget, as_json: bool) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{:#}", json!({"request": request, "refused": bad.text()}))?;
    } else {
        writeln!(out, "{request}\n  answered 400: {}", bad.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(url: &str) -> anyhow::Result<Uri> {
    let whole = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    // What follows # never leaves the browser.
    let sent = whole.split('#').next().unwrap_or(&whole);
    let uri: Uri = sent.parse().with_context(|| format!("\"{url}\" isn't a URL"))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        other => bail!("a URL here begins with http:// or https://, not {}", other.unwrap_or("nothing")),
    }
}

fn header(line: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = line.split_once(':').ok_or("a header is written \"name: value\"")?;
    let name = name.trim().parse().map_err(|_| format!("\"{name}\" isn't a header name"))?;
    let value = value.trim().parse().map_err(|_| "the value holds bytes that headers can't".to_owned())?;
    Ok((name, value))
}

/// The listener on `port` that only redirects, and where to.
fn redirect_listener(desired: &Desired, port: u16) -> Option<(&str, u16)> {
    desired.listeners.iter().find(|listener| listener.bind.port() == port).and_then(|listener| match listener.purpose {
        Purpose::RedirectToTls { port } => Some((listener.name.as_str(), port)),
        Purpose::Route => None,
    })
}

/// `shop/next, 10% of requests`.
fn shadows(desired: &Desired, route: Option<&str>) -> Vec<String> {
    let route = desired.routes.iter().find(|candidate| Some(candidate.name.as_str()) == route);
    let tell = |shadow: &Shadow| {
        let service = &desired.services[shadow.to.service];
        let version = &service.versions[shadow.to.version].name;
        format!("{}/{version}, {}% of requests", service.name, f64::from(shadow.sample) / 100.0)
    };
    route.into_iter().flat_map(|route| &route.shadows).map(tell).collect()
}
