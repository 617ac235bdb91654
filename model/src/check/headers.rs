//! Headers that routes change, and who may read answers (CORS).

use std::collections::BTreeMap;

use super::Checker;
use crate::config::{At, Cors, HeaderEdits, Many, Table};
use crate::desired;
use crate::diagnostic::Diagnostic;
use crate::literal::{HeaderName, HeaderValue};

impl Checker<'_, '_> {
    pub(super) fn header_edits(&mut self, route: &str, key: &str, edits: Option<&HeaderEdits>) -> desired::HeaderEdits {
        let Some(edits) = edits else { return desired::HeaderEdits::default() };
        let removed: Vec<_> = edits.remove.iter().flat_map(|many| &many.items).collect();
        self.refuse_twins(removed.iter().map(|name| (&name.value, name.span)), "header");
        for name in &removed {
            self.refuse_framing(route, key, name);
        }
        desired::HeaderEdits {
            set: self.headers(route, key, &edits.set),
            add: self.headers(route, key, &edits.add),
            remove: removed.into_iter().map(|name| name.value.0.clone()).collect(),
        }
    }

    pub(super) fn headers(
        &mut self,
        route: &str,
        key: &str,
        table: &Table<HeaderName, At<HeaderValue>>,
    ) -> BTreeMap<String, String> {
        let mut ready = BTreeMap::new();
        for (name, value) in &table.entries {
            self.refuse_framing(route, key, name);
            if let Some(value) = value {
                ready.insert(name.value.0.clone(), value.value.0.clone());
            }
        }
        ready
    }

    /// Reports headers that belong to one connection, or say where a message ends (RFC 9110 §7.6.1, RFC 9112 §6):
    /// whoever could write them could smuggle requests.
    fn refuse_framing(&mut self, route: &str, key: &str, name: &At<HeaderName>) {
        const FRAMING: &[&str] = &[
            "connection",
            "content-length",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let header = name.value.0.as_str();
        let help = match header {
            "host" if key == "mark" => "a copy keeps the host of its request",
            "host" if key != "response_headers" => "write rewrite: {host: …}",
            _ if FRAMING.contains(&header) => "the gateway writes it itself, for each connection",
            _ => return,
        };
        let message = format!("{key} of route \"{route}\" can't change \"{header}\"");
        let diagnostic = Diagnostic::error("forbidden-header", message).help(help);
        self.problems.add(name.span, "this isn't the route's to change", diagnostic);
    }

    pub(super) fn cors(&mut self, route: &str, cors: &Cors) -> desired::Cors {
        let credentials = cors.credentials.as_ref().is_some_and(|flag| flag.value.0);
        let any = cors.origins.items.iter().find(|origin| origin.value.0 == "*");
        if let (Some(any), Some(flag)) = (any.filter(|_| credentials), &cors.credentials) {
            let message = format!("cors of route \"{route}\" lets every site act with its visitors' cookies");
            let diagnostic = Diagnostic::error("cors-credentials", message).help("list the origins that may");
            self.problems.add_with(any.span, "every site", (flag.span, "with cookies"), diagnostic);
        }
        if cors.origins.items.is_empty() && !cors.damaged {
            let diagnostic = Diagnostic::error("no-origins", format!("cors of route \"{route}\" lists no origin"))
                .help("write origins: [\"https://shop.example.com\"], or leave cors out");
            self.problems.add(cors.origins.span, "this list is empty", diagnostic);
        }
        let names = |many: &Option<Many<At<HeaderName>>>| {
            many.iter().flat_map(|many| &many.items).map(|name| name.value.0.clone()).collect()
        };
        desired::Cors {
            origins: cors.origins.items.iter().map(|origin| origin.value.0.clone()).collect(),
            methods: match &cors.methods {
                Some(many) => many.items.iter().map(|method| method.value.0.clone()).collect(),
                None => ["GET", "HEAD", "POST"].map(str::to_owned).to_vec(),
            },
            headers: names(&cors.headers),
            expose: names(&cors.expose),
            credentials,
            max_age: cors.max_age.as_ref().map(|age| age.value.0),
        }
    }
}
