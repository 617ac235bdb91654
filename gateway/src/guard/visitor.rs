//! Who asks: whether a visitor is known to be good, and what becomes of one who isn't.
//!
//! Known are, cheapest first: exempt networks, whoever showed a verified client certificate, whoever passed a challenge,
//! and regulars. The last two are held to a rate, so that nobody floods under their name.
//!
//! # Invariants
//!
//! - A visitor is who the connection, the PROXY protocol or a trusted proxy says; what anybody else writes into headers
//!   counts for nothing.

use std::net::IpAddr;

use tidegate_model::desired::{Asked, Priority};
use tidegate_model::time::Timestamp;

use super::challenge::{self, Asking, Challenger};
use super::crowd::Crowd;
use super::gate::{Barred, Gate, Seat, Standing};
use super::known::SourceId;
use super::token::Holder;
use crate::decide::key::Network;
use crate::decide::nets::NetSet;
use crate::decide::{Answer, Connection, Entrance, Head, Reason};

/// Requests a second from one source with a pass, in an attack. Many people may sit behind one address.
const WITH_PASS: u32 = 50;

/// Who needn't show anything, and how others are asked to. Made once for each snapshot.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// Networks that count as known.
    pub exempt: NetSet,
    /// Asks; `None`: nobody is asked.
    pub challenger: Option<Challenger>,
}

/// Somebody who asks for something. Made for each request; looks nothing up before it is needed.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a, 'h> {
    /// What is asked for.
    pub head: &'a Head<'h>,
    /// How it came.
    pub connection: &'a Connection,
    /// The visitor's address.
    pub client: IpAddr,
    /// What is told apart.
    pub network: Network,
    /// The same, hashed.
    pub source: SourceId,
    /// When it came.
    pub now: Timestamp,
    /// What is asked of everybody.
    pub entrance: &'a Entrance,
    /// What is known of all.
    pub crowd: &'a Crowd,
}

impl Visitor<'_, '_> {
    /// The answer to a request that brings the answer to a challenge; `None` for every other request.
    pub fn brings_an_answer(&self) -> Option<Answer> {
        if self.head.path != challenge::PATH {
            return None;
        }
        let challenger = self.entrance.manners.challenger.as_ref()?;
        Some(challenger.answered(&self.asking(), self.crowd))
    }

    /// Whether they have shown who they are: by network, certificate or pass.
    pub fn has_shown_themselves(&self) -> bool {
        let manners = &self.entrance.manners;
        let unix = self.crowd.unix(self.now);
        manners.exempt.contains(self.client)
            || self.connection.tls.as_ref().is_some_and(|tls| tls.client.is_some())
            || manners.challenger.as_ref().is_some_and(|it| it.admits(self.head, self.holder(), unix))
    }

    /// Whether limits that challenge are not for them: they have shown who they are, and keep to the rate of a pass.
    pub fn may_pass_limits(&self) -> bool {
        self.has_shown_themselves() && self.crowd.known.within(self.source, WITH_PASS, self.now)
    }

    /// Where they stand when there isn't room for everybody.
    pub fn standing(&self, asked: Asked) -> Standing {
        let manners = &self.entrance.manners;
        let known = &self.crowd.known;
        let verified = self.connection.tls.as_ref().is_some_and(|tls| tls.client.is_some());
        if verified || manners.exempt.contains(self.client) {
            return Standing::Known;
        }
        let unix = self.crowd.unix(self.now);
        let has_pass = manners.challenger.as_ref().is_some_and(|it| it.admits(self.head, self.holder(), unix));
        let regular = known.allowance(self.source, self.now);
        let allowance = regular.into_iter().chain(has_pass.then_some(WITH_PASS)).max();
        match allowance {
            Some(allowance) if known.within(self.source, allowance, self.now) => Standing::Known,
            _ if !has_pass && asked != Asked::Never && self.understands() => Standing::Askable,
            _ => Standing::Unknown,
        }
    }

    /// Whether a challenge would reach a person.
    pub fn understands(&self) -> bool {
        self.entrance.manners.challenger.as_ref().is_some_and(|challenger| challenger.is_understood(self.head))
    }

    /// Asks them, or says with `sentence` why they are refused.
    pub fn ask(&self, status: u16, sentence: &'static str) -> Answer {
        match &self.entrance.manners.challenger {
            Some(challenger) if self.understands() => challenger.ask(&self.asking(), status, self.crowd),
            _ => Answer { reason: Reason::Challenged, ..challenge::turned_away(self.client, status, sentence) },
        }
    }

    /// What the route asks of everybody, and what the gateway's own strain asks of strangers.
    ///
    /// # Errors
    ///
    /// The answer that they get instead.
    pub fn is_welcome(&self, asked: Asked, priority: Priority) -> Result<(), Box<Answer>> {
        self.crowd.pulse.saw(self.source);
        if asked == Asked::Always && self.entrance.manners.challenger.is_some() && !self.has_shown_themselves() {
            return Err(self.ask(403, "403: this needs a browser that has passed the check of this site\n").into());
        }
        if self.crowd.pulse.is_strained() && priority != Priority::High {
            match self.standing(asked) {
                Standing::Known => {}
                Standing::Askable => return Err(self.ask(503, "").into()),
                Standing::Unknown => return Err(self.turned_away().into()),
            }
        }
        Ok(())
    }

    /// Takes a place at a service.
    ///
    /// # Errors
    ///
    /// The answer that they get instead.
    pub fn enter(&self, gate: &std::sync::Arc<Gate>, asked: Asked, priority: Priority) -> Result<Seat, Box<Answer>> {
        gate.enter(priority, self.source, || self.standing(asked), self.now).map_err(|barred| match barred {
            Barred::Challenge => self.ask(503, "").into(),
            Barred::Full => self.turned_away().into(),
        })
    }

    fn turned_away(&self) -> Answer {
        challenge::turned_away(self.client, 503, "503: too many visitors just now, see Retry-After\n")
    }

    fn holder(&self) -> Holder<'_> {
        Holder { network: self.network, host: self.head.host }
    }

    fn asking(&self) -> Asking<'_, '_> {
        Asking {
            head: self.head,
            client: self.client,
            holder: self.holder(),
            https: self.entrance.client.came_by(self.head, self.connection).0,
            unix: self.crowd.unix(self.now),
        }
    }
}
