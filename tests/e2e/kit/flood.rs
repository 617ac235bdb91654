//! A flood: many requests from very many addresses, by few threads; and a server that can take only so much.
//!
//! Each thread holds some connections and goes round: a request on each, then an answer from each. A connection
//! ends after a dozen requests, and the next one comes from the next address. So no address does more than a polite
//! visitor would.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections of a thread. Enough that a flood which waits for its answers still fills a line.
const CONNECTIONS: u32 = 192;

/// Requests of a connection.
const TURNS: u32 = 12;

/// How addresses are chosen.
#[derive(Clone, Copy, Debug)]
pub enum Sources {
    /// So many of 127.0.0.0/8, beginning at 127.16.0.0.
    Loopback(u32),
    /// So many IPv6 /64s, by PROXY protocol.
    Prefixes(u32),
}

/// What became of a flood's requests.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that were sent.
    pub sent: AtomicU64,
    /// Answers below 400.
    pub served: AtomicU64,
    /// Answers of 400 and more.
    pub refused: AtomicU64,
    /// Connections that could not be opened, or broke.
    pub broken: AtomicU64,
}

/// A flood that runs until it is stopped.
pub struct Flood {
    /// What has become of its requests so far.
    pub tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Sends `rate` requests a second to `address` from as many `sources`.
    pub fn start(address: SocketAddr, rate: u32, threads: u32, sources: Sources) -> Self {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let next = Arc::new(AtomicU32::new(0));
        let run = |_| {
            let (tally, stop, next) = (Arc::clone(&tally), Arc::clone(&stop), Arc::clone(&next));
            let round = Duration::from_secs_f64(f64::from(CONNECTIONS * threads) / f64::from(rate));
            std::thread::spawn(move || go_round(address, sources, round, &tally, &stop, &next))
        };
        let threads = (0..threads).map(run).collect();
        Self { tally, stop, threads }
    }

    /// Ends it.
    pub fn stop(mut self) -> Arc<Tally> {
        self.stop.store(true, Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("the flood ends by itself"));
        Arc::clone(&self.tally)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn go_round(
    address: SocketAddr,
    sources: Sources,
    round: Duration,
    tally: &Tally,
    stop: &AtomicBool,
    next: &AtomicU32,
) {
    // Each begins at another turn, so that they don't all come back at once.
    let mut open: Vec<(Option<TcpStream>, u32)> = (0..CONNECTIONS).map(|n| (None, n % TURNS)).collect();
    let mut due = Instant::now();
    while !stop.load(Relaxed) {
        for (stream, turn) in &mut open {
            if *turn == TURNS || stream.is_none() {
                *stream = connect(address, sources, next.fetch_add(1, Relaxed)).ok();
                *turn = if *turn == TURNS { 0 } else { *turn };
            }
            *turn += 1;
            let request = b"GET /flood HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: flood\r\n\r\n";
            match stream.as_mut().map(|stream| stream.write_all(request)) {
                Some(Ok(())) => drop(tally.sent.fetch_add(1, Relaxed)),
                _ => {
                    *stream = None;
                    tally.broken.fetch_add(1, Relaxed);
                }
            }
        }
        for (stream, _) in &mut open {
            let Some(reading) = stream else { continue };
            match answer(reading) {
                Some(status) if status < 400 => drop(tally.served.fetch_add(1, Relaxed)),
                Some(_) => drop(tally.refused.fetch_add(1, Relaxed)),
                None => {
                    tally.broken.fetch_add(1, Relaxed);
                    *stream = None;
                }
            }
        }
        due += round;
        match due.checked_duration_since(Instant::now()) {
            Some(rest) => std::thread::sleep(rest),
            None => due = Instant::now(), // What can't be sent in time isn't sent later.
        }
    }
}

fn connect(address: SocketAddr, sources: Sources, n: u32) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    if let Sources::Loopback(many) = sources {
        socket.set_reuse_address(true)?;
        let source = Ipv4Addr::from_bits(u32::from_be_bytes([127, 16, 0, 0]) + n % many);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    socket.connect(&address.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    if let Sources::Prefixes(many) = sources {
        let prefix = n % many;
        let source = format!("2001:db8:{:x}:{:x}::{:x}", prefix >> 16, prefix & 0xffff, n & 0xff);
        stream.write_all(format!("PROXY TCP6 {source} 2001:db8:ffff::1 40000 443\r\n").as_bytes())?;
    }
    Ok(stream)
}

/// Reads one answer, and returns its status.
fn answer(stream: &mut TcpStream) -> Option<u16> {
    let mut buffer = [0; 16 << 10];
    let mut filled = 0;
    loop {
        let n = stream.read(&mut buffer[filled..]).ok().filter(|n| *n > 0)?;
        filled += n;
        let text = &buffer[..filled];
        let Some(end) = text.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
        let length = head.split("content-length:").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        if filled >= end + 4 + length {
            return head.get(9..12).and_then(|status| status.parse().ok());
        }
    }
}

/// A server that serves so many requests at a time, each for the same time; others wait in line.
pub struct Narrow {
    /// Where it listens.
    pub address: SocketAddr,
    /// Requests that it has answered.
    pub served: Arc<AtomicU64>,
    /// The most that were in it at once, waiting ones included, since this was last taken.
    pub most: Arc<AtomicU64>,
}

impl Narrow {
    /// Starts one on a free port.
    pub async fn start(places: usize, each: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (served, most, inside) =
            (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let line = Arc::new(Semaphore::new(places));
        let narrow = Self { address, served: Arc::clone(&served), most: Arc::clone(&most) };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (line, served, most, inside) =
                    (Arc::clone(&line), Arc::clone(&served), Arc::clone(&most), Arc::clone(&inside));
                tokio::spawn(async move {
                    let mut buffer = Vec::new();
                    loop {
                        while !buffer.windows(4).any(|part| part == b"\r\n\r\n") {
                            match stream.read_buf(&mut buffer).await {
                                Ok(n) if n > 0 => {}
                                _ => return,
                            }
                        }
                        buffer.clear(); // Nobody sends two at once.
                        most.fetch_max(inside.fetch_add(1, Relaxed) + 1, Relaxed);
                        if let Ok(_place) = line.acquire().await {
                            tokio::time::sleep(each).await;
                        }
                        inside.fetch_sub(1, Relaxed);
                        served.fetch_add(1, Relaxed);
                        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        narrow
    }
}
