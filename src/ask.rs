//! How commands find a running gateway, and ask it something.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tidegate_gateway::source::history::Archive;
use tidegate_gateway::source::{self, state};
use tidegate_model::check::check;
use tidegate_model::desired::Desired;

use crate::print;

/// The admin address that the examples use.
const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// Time for the answer. The gateway gives up waiting for its own reload after 60 s.
const ANSWER: Duration = Duration::from_secs(65);

/// Bytes of an answer that are read. The rest isn't shown.
const MAX_ANSWER: u64 = 4 << 20;

/// Which gateway.
#[derive(clap::Args)]
pub struct Which {
    /// The gateway's admin address [default: the one in --config, else 127.0.0.1:9900]
    #[arg(long, value_name = "ADDRESS", global = true)]
    admin: Option<SocketAddr>,
    /// The gateway's configuration: its admin address is asked
    #[arg(long, short, value_name = "FILE|FOLDER", global = true)]
    config: Option<PathBuf>,
    /// Where its generations are kept: their admin address is asked if the file is broken
    #[arg(long, value_name = "FOLDER", global = true)]
    state: Option<PathBuf>,
}

impl Which {
    /// Its admin address.
    ///
    /// # Errors
    ///
    /// Neither the configuration nor a kept generation names one.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        match (self.admin, &self.config) {
            (Some(address), _) => Ok(address),
            (None, Some(config)) => admin_of(config, self.state.as_deref()),
            (None, None) => Ok(USUAL),
        }
    }
}

/// Asks the gateway at `address`: its status and body. HTTP/1.0, so that the answer ends with the connection and
/// isn't chunked.
///
/// # Errors
///
/// No gateway answers there.
pub fn ask(address: SocketAddr, method: &str, target: &str, body: &str) -> anyhow::Result<(u16, String)> {
    exchange(address, method, target, body).with_context(|| {
        format!(
            "no gateway answered at its admin address {address}; is it running, with this address under admin.bind?"
        )
    })
}

fn exchange(address: SocketAddr, method: &str, target: &str, body: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(CONNECT))?;
    let length = body.len();
    write!(stream, "{method} {target} HTTP/1.0\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n{body}")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer isn't HTTP")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("the answer isn't HTTP")?;
    Ok((status, body.to_owned()))
}

/// The admin address in `config` or, while that is broken, in the newest kept generation.
fn admin_of(config: &Path, state: Option<&Path>) -> anyhow::Result<SocketAddr> {
    let listening = |desired: &Desired| desired.admin;
    let address = match source::load(config) {
        Ok(checked) => listening(&checked.desired),
        Err(problems) => {
            let archive = Archive::at(state::find(&std::path::absolute(config)?, state));
            let newest = archive.newest_first()?.find_map(|record| check(&record.sources()).ok());
            if newest.is_none() {
                print::tell(&problems);
            }
            newest.and_then(|checked| listening(&checked.desired))
        }
    };
    let address =
        address.with_context(|| format!("{} names no admin address; give it by --admin", config.display()))?;
    // A gateway that listens everywhere is asked on this machine.
    Ok(match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    })
}
