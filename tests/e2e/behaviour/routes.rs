//! Many routes, many reloads: memory stays where it was.

use std::fmt::Write;
use std::time::Instant;

use crate::kit::{Gateway, full_size, get};

fn config(routes: usize, salt: usize) -> String {
    let mut text = String::from("services: {app: {endpoints: [\"127.0.0.1:1\"]}}\nroutes:\n");
    for n in 0..routes {
        let host = n % 100;
        writeln!(text, "  - {{name: r{n}, match: {{host: h{host}.example.com, path: /p{n}/**}}, to: app}}").unwrap();
    }
    writeln!(text, "  - {{name: which, match: {{path: /which}}, answer: {{status: 200, body: \"{salt}\"}}}}").unwrap();
    text
}

/// Reloads in which the allocator reaches its level. While one is under way two snapshots and a syntax tree are
/// alive, and the allocator gives their pages back when it likes: so highs are compared, not moments.
const WARM_UP: usize = 20;

async fn highest_over(reloads: usize, gateway: &mut Gateway, routes: usize, salt: usize) -> u64 {
    let mut highest = 0;
    for n in 1..=reloads {
        gateway.reload(&config(routes, salt + n)).await;
        highest = highest.max(gateway.resident());
    }
    highest
}

#[tokio::test]
async fn reloading_thousands_of_routes_again_and_again_does_not_grow_memory() {
    let (routes, reloads) = if full_size() { (10_000, 500) } else { (1_000, 40) };
    let mut gateway = Gateway::start(&config(routes, 0), &[]).await;
    let before = highest_over(WARM_UP, &mut gateway, routes, 0).await;

    let began = Instant::now();
    for n in 1..=reloads {
        gateway.reload(&config(routes, 10_000 + n)).await;
    }
    let took = began.elapsed();
    let after = highest_over(WARM_UP, &mut gateway, routes, 20_000).await;

    println!(
        "{reloads} reloads of {routes} routes, {:.1?} each; resident memory at most {} KiB before, {} KiB after",
        took / u32::try_from(reloads).unwrap(),
        before / 1024,
        after / 1024
    );
    assert_eq!(get(gateway.web(), "/which").await.unwrap().text(), (20_000 + WARM_UP).to_string());
    // Allocator slack: a tenth, and a few MiB.
    assert!(after <= before + before / 10 + (6 << 20), "{before} grew to {after}");
    gateway.assert_unharmed();
}
