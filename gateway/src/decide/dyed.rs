//! Whether a dyed request is let in: only where live traffic doesn't need the room.

use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use rand::Rng;

use super::{Answer, Reason, answer};
use crate::guard::gate::Seat;
use crate::guard::slo;
use crate::guard::visitor::Visitor;
use crate::record::DyedShed;
use crate::snapshot::{ServiceEntry, Snapshot};

/// Says to a load generator that it was the gateway who answered, and why.
const REASON: HeaderName = HeaderName::from_static("x-tidegate-reason");

/// What a dyed request is told to wait where nobody knows how long it takes.
const WAIT: Duration = Duration::from_secs(5);

/// Takes a place at `service`.
///
/// # Errors
///
/// The answer that it gets instead.
pub(super) fn enter(
    visitor: &Visitor<'_, '_>,
    snapshot: &Snapshot,
    service: &ServiceEntry,
    dice: &mut impl Rng,
) -> Result<Seat, Box<Answer>> {
    let shed = |why, wait| {
        service.metrics.dyed_shed(why);
        Err(Box::new(turned_away(visitor, wait)))
    };
    if visitor.crowd.pulse.is_strained() {
        return shed(DyedShed::Strained, WAIT);
    }
    let everywhere = snapshot.desired.dyed.as_ref().and_then(|dyed| dyed.shed.as_ref()).is_some_and(|it| it.everywhere);
    let own = service.slo.as_ref().filter(|_| !everywhere);
    let all = snapshot.services.iter().filter_map(|service| service.slo.as_ref()).filter(|_| everywhere);
    let strictest = own.into_iter().chain(all).map(|slo| (slo.share(visitor.now), slo)).min_by_key(|(share, _)| *share);
    if let Some((share, slo)) = strictest
        && share < slo::WHOLE
        && dice.random_range(0..slo::WHOLE) >= share
    {
        return shed(DyedShed::Slo, slo.wait(visitor.now));
    }
    service.gate.enter_dyed(visitor.source, visitor.now).or_else(|why| shed(why, WAIT))
}

fn turned_away(visitor: &Visitor<'_, '_>, wait: Duration) -> Answer {
    let sentence = "503: dyed traffic is shed, because live traffic needs the room; see Retry-After\n";
    let mut answer = Answer::text(503, Reason::DyedShed, visitor.client, sentence);
    let seconds = answer::whole_seconds(wait.as_nanos() as u64).max(1);
    answer.headers.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
    answer.headers.push((REASON, HeaderValue::from_static("dyed_shed")));
    answer
}
