//! `tidegate demo-app`: a small shop that says who it is, and misbehaves on request.
//!
//! The demo puts three versions of it behind the gateway, and tests use it as an
//! origin. It speaks HTTP/1.1, h2c, WebSocket (`/ws`) and a minimal gRPC (any
//! path with `content-type: application/grpc` echoes its message).
//!
//! # Not here
//!
//! Starting several of them with a gateway in front is `demo`.

mod http;
mod mood;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

use mood::Shop;

/// Run one small HTTP server of the demonstration's shop
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The version it says it is.
    #[arg(long, default_value = "v1")]
    pub name: String,
    /// Where it listens; port 0 takes a free one. The address is the first line on standard output.
    #[arg(long, default_value = "127.0.0.1:9001")]
    pub bind: SocketAddr,
    /// What this process calls itself in answers [default: its address].
    #[arg(long)]
    pub instance: Option<String>,
    /// Recent requests kept for /_demo/requests; 0 keeps none.
    #[arg(long, default_value_t = 100)]
    pub record: usize,
    /// Worker threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: u8,
}

/// Serves until the process is stopped.
///
/// # Errors
///
/// When the address can't be bound.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::from(args.threads))
        .enable_all()
        .build()
        .context("could not start the runtime")?
        .block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind(args.bind).await.with_context(|| format!("could not bind {}", args.bind))?;
    let address = listener.local_addr()?;
    let shop = Arc::new(Shop::new(args.name, args.instance.unwrap_or_else(|| address.to_string()), args.record));
    println!("demo-app {} listens on {address}", shop.version);

    loop {
        // A failed accept (out of descriptors, a client that is gone) is not a reason to stop.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let shop = Arc::clone(&shop);
        tokio::spawn(async move {
            let mut server = auto::Builder::new(TokioExecutor::new());
            server.http1().timer(TokioTimer::new()).pipeline_flush(true);
            server.http2().timer(TokioTimer::new()).max_concurrent_streams(1_000);
            let service = service_fn(move |request| {
                let shop = Arc::clone(&shop);
                async move { http::answer(request, shop).await }
            });
            // The client's way of leaving is its own business.
            let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}
