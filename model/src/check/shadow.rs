//! Shadows: copies of live requests.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Checker;
use super::names::Names;
use super::route::Used;
use crate::config::{Service, Shadow};
use crate::desired::{self, Bounds, Compare, Methods};
use crate::diagnostic::Diagnostic;
use crate::literal::Comparison;

/// Every request, where nothing was written.
const SAMPLE: u32 = 10_000;
/// Bytes of a body, where nothing was written.
const BODY: u64 = 1 << 20;
/// Copies in flight, where nothing was written.
const IN_FLIGHT: usize = 64;
/// How long a copy may take, where nothing was written.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Checker<'_, '_> {
    pub(super) fn shadow(
        &mut self,
        route: &str,
        shadow: &Shadow,
        services: &Names<'_, Service>,
        bounds: &Bounds,
        used: &mut Used,
    ) -> Option<desired::Shadow> {
        let to = self.target(format_args!("a shadow of route \"{route}\" points at"), &shadow.to, services, used);
        let max_body = shadow.body.as_ref().map_or(BODY.min(bounds.shadow_bytes), |size| size.value.0);
        if let Some(body) = shadow.body.as_ref().filter(|_| max_body > bounds.shadow_bytes) {
            let message = format!("a shadow of route \"{route}\" may copy more than all shadows together");
            let diagnostic =
                Diagnostic::error("shadow-body", message).help("make it smaller, or raise bounds.shadow_bytes");
            self.problems.add(body.span, format!("bounds.shadow_bytes is {} bytes", bounds.shadow_bytes), diagnostic);
        }
        let compare = self.compare(route, shadow);
        let mark = match &shadow.mark {
            Some(mark) => self.headers(route, "mark", mark),
            None => BTreeMap::from([("x-shadow".into(), "1".into())]),
        };
        Some(desired::Shadow {
            to: to?,
            sample: shadow.sample.as_ref().map_or(SAMPLE, |sample| sample.value.0),
            max_body,
            over: shadow.over.as_ref().map(|over| over.value.0).unwrap_or_default(),
            max_in_flight: shadow.max_in_flight.as_ref().map_or(IN_FLIGHT, |number| number.value.0 as usize),
            timeout: shadow.timeout.as_ref().map_or(TIMEOUT, |time| time.value.0),
            methods: shadow.methods.as_ref().map_or(Methods::Safe, |methods| self.methods(methods)),
            mark,
            compare,
        })
    }

    fn compare(&mut self, route: &str, shadow: &Shadow) -> Option<Compare> {
        let mut ready = Compare::default();
        for what in shadow.compare.iter().flat_map(|many| &many.items) {
            match what.value.0 {
                Comparison::Status => ready.status = true,
                Comparison::Body => ready.body = true,
                Comparison::Latency => ready.latency = true,
            }
        }
        if let Some(ignore) = &shadow.ignore {
            if !ready.body && !shadow.damaged {
                let message = format!("a shadow of route \"{route}\" ignores parts of a body that it doesn't compare");
                let diagnostic = Diagnostic::error("unused-key", message).help("write compare: [status, body]");
                self.problems.add(ignore.span, "bodies aren't compared", diagnostic);
            }
            ready.ignore = ignore.items.iter().map(|path| path.value.0.clone()).collect();
        }
        (ready.status || ready.body || ready.latency).then_some(ready)
    }
}
