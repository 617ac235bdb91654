//! No request makes the router panic, whatever the routes are.
#![no_main]

use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use tidegate_gateway::decide::Head;
use tidegate_gateway::decide::route::Router;
use tidegate_model::check::{SourceFile, check};

fuzz_target!(|input: (&str, &str, &str, Option<&str>)| {
    let (config, host, path, query) = input;
    let file = SourceFile { path: "edge.yaml".into(), text: config.to_owned() };
    let Ok(checked) = check(&[file]) else { return };
    let routes = &checked.desired.routes;
    let headers = HeaderMap::new();
    let head = Head { method: &Method::GET, host, path, query, headers: &headers, content_length: None };

    let found = Router::build(routes).find(&head);

    assert!(found.is_none_or(|index| index < routes.len()));
});
