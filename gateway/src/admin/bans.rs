//! `/bans`: lists, begins and ends bans. What `tidegate bans` talks to.
//!
//! ```text
//! GET    /bans?limit=100&after=203.0.113.0/24     a page, by address
//! GET    /bans?covering=203.0.113.7               the bans that hold an address
//! POST   /bans {"network": "203.0.113.0/24", "for": "2h", "reason": "scraper"}
//! DELETE /bans?network=203.0.113.0/24
//! ```

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidegate_model::literal::{Literal as _, Network, Time};

use crate::clock;
use crate::decide::key;
use crate::guard::bans::{Ban, Bans};

/// Bans on one page, where nothing else is asked for, and at most. More come on the next page.
pub const PAGE: usize = 1_000;

/// How long a ban lasts where nothing else is said.
pub const USUAL: Duration = Duration::from_secs(86_400);

/// Bytes of a request to ban. Beyond it the answer is 400.
const BODY: usize = 4_096;

/// A ban as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BanView {
    /// Who.
    pub network: IpNet,
    /// When it began.
    pub since: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// Which time it is.
    pub times: u16,
    /// Why: the name of a limit, or what a person wrote.
    pub reason: String,
}

/// A page of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// By address.
    pub bans: Vec<BanView>,
    /// Entries of the whole table: bans in force and those that are remembered.
    pub entries: usize,
    /// Give this as `after` to get the next page.
    pub next: Option<IpNet>,
}

/// A ban that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// An address or a network.
    pub network: String,
    /// How long: `2h`. Left out: a day.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<String>,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What is answered: a status, and JSON or a sentence.
pub(super) enum Said {
    Page(Page),
    Ban(Box<BanView>),
    Freed(IpNet),
    No(StatusCode, String),
}

/// Answers a request for `/bans`.
pub(super) async fn answer<B>(request: Request<B>, bans: &Bans) -> Said
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let query = request.uri().query().unwrap_or_default().to_owned();
    let asked = |name: &str| key::query(&query, name).map(|value| String::from_utf8_lossy(&value).into_owned());
    let result = match *request.method() {
        Method::POST => match Limited::new(request.into_body(), BODY).collect().await {
            Ok(body) => add(&body.to_bytes(), bans),
            Err(_) => Err("the body is longer than a ban, or broke off".into()),
        },
        Method::DELETE => remove(asked("network"), bans),
        _ => list(asked, bans),
    };
    result.unwrap_or_else(|sentence| Said::No(StatusCode::BAD_REQUEST, format!("{sentence}\n")))
}

fn list(asked: impl Fn(&str) -> Option<String>, bans: &Bans) -> Result<Said, String> {
    let most = match asked("limit") {
        Some(text) => text.parse().map_err(|_| format!("limit={text} isn't a number"))?,
        None => PAGE,
    };
    let after = asked("after").map(|text| network(&text)).transpose()?;
    let covering = asked("covering")
        .map(|text| text.parse::<IpAddr>().map_err(|_| format!("covering={text} isn't an address")))
        .transpose()?;
    let most = most.clamp(1, PAGE);
    let page = bans.page(after, covering, most, clock::now());
    let next = page.last().filter(|_| page.len() == most).map(|ban| ban.network);
    Ok(Said::Page(Page { bans: page.iter().map(view).collect(), entries: bans.len(), next }))
}

fn add(body: &[u8], bans: &Bans) -> Result<Said, String> {
    let wanted: Wanted = serde_json::from_slice(body).map_err(|err| {
        format!("a ban is written {{\"network\": \"203.0.113.0/24\", \"for\": \"2h\", \"reason\": \"…\"}}: {err}")
    })?;
    let network = network(&wanted.network)?;
    if network.prefix_len() == 0 {
        return Err(format!("{network} is everybody; access: {{deny: …}} in the configuration can say that"));
    }
    let lasts = match wanted.lasts {
        Some(text) => Time::parse(&text).map_err(|wrong| told(&text, &wrong))?.0,
        None => USUAL,
    };
    match bans.add(network, lasts, &wanted.reason, clock::now()) {
        Ok(ban) => Ok(Said::Ban(Box::new(view(&ban)))),
        Err(spared) => Ok(Said::No(StatusCode::CONFLICT, format!("{spared}\n"))),
    }
}

fn remove(asked: Option<String>, bans: &Bans) -> Result<Said, String> {
    let text = asked.ok_or("DELETE /bans needs ?network=…")?;
    let network = network(&text)?;
    if bans.remove(network) {
        return Ok(Said::Freed(network));
    }
    let around = bans.page(None, Some(network.network()), 1, clock::now());
    let hint = around.first().map(|ban| format!("; but {} is, which holds it", ban.network)).unwrap_or_default();
    Ok(Said::No(StatusCode::NOT_FOUND, format!("{network} isn't banned{hint}\n")))
}

fn network(text: &str) -> Result<IpNet, String> {
    Network::parse(text).map(|network| network.0).map_err(|wrong| told(text, &wrong))
}

fn told(text: &str, wrong: &tidegate_model::literal::Wrong) -> String {
    let help = wrong.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    format!("\"{text}\": {}{help}", wrong.label)
}

fn view(ban: &Ban) -> BanView {
    let moment = |unix: u64| {
        let millis = i64::try_from(unix).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
    };
    BanView {
        network: ban.network,
        since: moment(ban.since),
        until: moment(ban.until),
        times: ban.times,
        reason: ban.reason.to_string(),
    }
}
