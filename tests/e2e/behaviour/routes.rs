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

#[tokio::test]
async fn reloading_thousands_of_routes_again_and_again_does_not_grow_memory() {
    let (routes, reloads) = if full_size() { (10_000, 500) } else { (1_000, 40) };
    let mut gateway = Gateway::start(&config(routes, 0), &[]).await;
    for n in 1..=reloads / 4 {
        gateway.reload(&config(routes, n)).await;
    }
    let before = gateway.resident();

    let began = Instant::now();
    for n in 1..=reloads {
        gateway.reload(&config(routes, 10_000 + n)).await;
    }
    let took = began.elapsed();
    let after = gateway.resident();

    println!(
        "{reloads} reloads of {routes} routes, {:.1?} each; resident memory {} KiB before, {} KiB after",
        took / u32::try_from(reloads).unwrap(),
        before / 1024,
        after / 1024
    );
    assert_eq!(get(gateway.web(), "/which").await.unwrap().text(), (10_000 + reloads).to_string());
    // Allocator slack: a tenth, and a few MiB.
    assert!(after <= before + before / 10 + (6 << 20), "{before} grew to {after}");
    gateway.assert_unharmed();
}
