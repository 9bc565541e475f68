//! What became of a request, as its client saw it.

use std::collections::BTreeMap;

use serde::Serialize;

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Answered in full; not by a 5xx.
    Ok,
    /// Answered in full, with the word that the connection closes.
    OkClose,
    /// Answered in full with a status of 500 or more.
    Http5xx,
    /// Nobody listened.
    Refused,
    /// The connection was not set up in time.
    ConnectTimeout,
    /// Closed before the request was sent, or before any byte of it was acknowledged: safe to
    /// retry, so no loss.
    ClosedBeforeSend,
    /// Reset before any byte was acknowledged: the server never read it. Safe to retry in fact.
    ClosedUnread,
    /// Closed without an answer after the request had arrived: nobody can know what was done.
    ClosedAfterSend,
    /// Reset without an answer after the request had arrived.
    Reset,
    /// Cut off in the middle of the answer.
    Truncated,
    /// No answer and no end, with the connection alive.
    Hang,
    /// The generator could not send it: says nothing about the server.
    Unsent,
}

impl Outcome {
    /// Whether the client got what it asked for.
    pub fn is_ok(self) -> bool {
        matches!(self, Outcome::Ok | Outcome::OkClose)
    }

    /// Whether something was lost that a client cannot safely ask for again.
    pub fn is_loss(self) -> bool {
        !self.is_ok() && !matches!(self, Outcome::ClosedBeforeSend | Outcome::ClosedUnread | Outcome::Unsent)
    }

    /// As it is written in reports.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::OkClose => "ok_close",
            Outcome::Http5xx => "http_5xx",
            Outcome::Refused => "refused",
            Outcome::ConnectTimeout => "connect_timeout",
            Outcome::ClosedBeforeSend => "closed_before_send",
            Outcome::ClosedUnread => "closed_unread",
            Outcome::ClosedAfterSend => "closed_after_send",
            Outcome::Reset => "reset",
            Outcome::Truncated => "truncated",
            Outcome::Hang => "hang",
            Outcome::Unsent => "unsent",
        }
    }
}

/// How often each outcome was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Counts(BTreeMap<Outcome, u32>);

impl Counts {
    /// Counts one more.
    pub fn add(&mut self, outcome: Outcome) {
        *self.0.entry(outcome).or_default() += 1;
    }

    /// All requests.
    pub fn total(&self) -> u32 {
        self.0.values().sum()
    }

    /// Requests that got their answer.
    pub fn ok(&self) -> u32 {
        self.of(Outcome::is_ok)
    }

    /// Requests that were lost.
    pub fn lost(&self) -> u32 {
        self.of(Outcome::is_loss)
    }

    /// The losses by kind: `12 refused, 3 reset`; empty if there are none.
    pub fn losses(&self) -> String {
        let lost = self.0.iter().filter(|(outcome, _)| outcome.is_loss());
        lost.map(|(outcome, count)| format!("{count} {}", outcome.name())).collect::<Vec<_>>().join(", ")
    }

    /// How often this one was seen.
    pub fn count(&self, outcome: Outcome) -> u32 {
        self.0.get(&outcome).copied().unwrap_or(0)
    }

    /// Each outcome that was seen, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, u32)> {
        self.0.iter().map(|(outcome, count)| (*outcome, *count))
    }

    fn of(&self, wanted: impl Fn(Outcome) -> bool) -> u32 {
        self.0.iter().filter(|(outcome, _)| wanted(**outcome)).map(|(_, count)| count).sum()
    }
}

impl FromIterator<Outcome> for Counts {
    fn from_iter<I: IntoIterator<Item = Outcome>>(outcomes: I) -> Counts {
        let mut counts = Counts::default();
        for outcome in outcomes {
            counts.add(outcome);
        }
        counts
    }
}
