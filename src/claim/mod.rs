//! One-time keys, `[keys] one_time`: which connection a record belongs to.
//!
//! ```text
//! /proc/PPID ────────────────▶ Connection ┐
//! /run/ec2-instance-connect ─▶ Claims ────┴─ the records that hold ─▶ one key, this connection's
//! ```
//!
//! A claim is one name for one record, made by one system call that fails where the name exists: of any number of
//! connections exactly one makes it ([`store`]). sshd runs the helper more than once for one login; to those runs the
//! claim that they find is their own. Everything that can fail for want of a directory or of `/proc` is done by
//! [`Desk::open`], before a record is judged. docs/ONE-TIME.md tells it to operators.

mod connection;
mod name;
mod store;

pub use connection::Connection;
pub use name::Entry;
pub use store::{Claims, DIRECTORY};

use std::os::fd::BorrowedFd;

use pki_types::UnixTime;

use crate::authorize::{Purpose, Verdicts};
use crate::keys::AuthorizedKey;
use crate::reason::{Reason, Refusal};
use crate::request::Request;

/// What becomes of a record that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its key is for this connection.
    Given,
    /// It belongs to another connection.
    Used(Connection),
    /// It is nobody's and stays so: this connection has another one.
    Spare,
}

/// Where claims are made and looked up, for one decision.
#[derive(Debug)]
pub struct Desk {
    claims: Claims,
    /// Who claims; nobody where somebody only looks.
    claimant: Option<Connection>,
}

impl Desk {
    /// Opens the directory of claims and, for a login, proves the connection and sweeps what has expired by `now`.
    ///
    /// # Errors
    /// [`Reason::OneTimeUnavailable`]: no directory that is ours alone, no sshd as our parent, a `/proc` that hides
    /// it, no fingerprint in sshd's words.
    pub fn open(asked: Option<&Request>, purpose: &Purpose<'_>, now: UnixTime) -> Result<Self, Refusal> {
        let claims = Claims::open()?;
        let claimant = match purpose {
            Purpose::Look => {
                claims.takes_claims()?;
                connection::proc_is_visible()?;
                None
            }
            Purpose::Login(_) => {
                // Without it a run that is about another key would claim this one.
                if asked.is_some_and(|request| request.fingerprint.is_none()) {
                    return Err(unavailable(
                        "sshd gives no FINGERPRINT: AuthorizedKeysCommand needs %f",
                    ));
                }
                let claimant = Connection::of_parent()?;
                claims.sweep(now.as_secs());
                Some(claimant)
            }
        };
        Ok(Self { claims, claimant })
    }

    /// The open directory of claims, in which [`crate::cage`] lets claims be made.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.claims.directory()
    }

    /// What is left of `verdicts`: of the records that hold, one that is this connection's; where somebody only looks,
    /// all that nobody has claimed. Records that are left for others are not in the list. `clock` is asked once more
    /// after a claim was made.
    fn settle(&self, verdicts: Verdicts, clock: impl Fn() -> Result<UnixTime, Refusal>) -> Verdicts {
        let entries: Vec<Entry> = verdicts.iter().flatten().map(entry).collect();
        let owner = |entry: &Entry| self.claims.owner(entry);
        let fates = match self.claimant {
            None => looked_at(&entries, owner),
            Some(claimant) => fates(&entries, claimant, owner, |entry| {
                let owner = self.claims.claim(entry, claimant)?;
                // A claim may be swept once its record has expired. So only a claim made before that is a first one.
                if clock()?.as_secs() >= entry.expires {
                    let detail = "the record expired while it was being claimed";
                    return Err(Refusal::new(Reason::RecordExpired, detail));
                }
                Ok(owner)
            }),
        };
        let fates = match fates {
            Ok(fates) => fates,
            Err(refusal) => return refuse(verdicts, &refusal),
        };
        let mut fates = fates.into_iter();
        verdicts
            .into_iter()
            .filter_map(|verdict| match verdict {
                Err(refusal) => Some(Err(refusal)),
                Ok(key) => match fates.next() {
                    Some(Fate::Given) => Some(Ok(key)),
                    Some(Fate::Used(owner)) => Some(Err(used(owner))),
                    Some(Fate::Spare) | None => None,
                },
            })
            .collect()
    }
}

/// What is left of `verdicts` where keys are good for one connection; with a `desk` that could not be opened, no key.
#[must_use]
pub fn settle(
    desk: Result<Desk, Refusal>,
    verdicts: Verdicts,
    clock: impl Fn() -> Result<UnixTime, Refusal>,
) -> Verdicts {
    match desk {
        Ok(desk) => desk.settle(verdicts, clock),
        Err(refusal) => refuse(verdicts, &refusal),
    }
}

/// Every key refused, for the same reason.
fn refuse(verdicts: Verdicts, refusal: &Refusal) -> Verdicts {
    let refuse_one = |verdict: Result<AuthorizedKey, Refusal>| verdict.and_then(|_| Err(refusal.clone()));
    verdicts.into_iter().map(refuse_one).collect()
}

fn entry(key: &AuthorizedKey) -> Entry {
    Entry {
        expires: key.expires(),
        digest: key.signed_digest(),
    }
}

fn used(owner: Connection) -> Refusal {
    let detail = format!(
        "sshd[{}] has used it: keys are good for one connection",
        owner.pid
    );
    Refusal::new(Reason::Used, detail)
}

fn unavailable(detail: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(Reason::OneTimeUnavailable, detail)
}

/// What becomes of each entry when `claimant` asks: it gets the one that it owns already, else the soonest to expire
/// of those that nobody owns.
///
/// `owner` says who owns an entry; `claim` tries to own it for `claimant` and says who owns it then, for another one may
/// have been faster.
fn fates(
    entries: &[Entry],
    claimant: Connection,
    owner: impl Fn(&Entry) -> Result<Option<Connection>, Refusal>,
    mut claim: impl FnMut(&Entry) -> Result<Connection, Refusal>,
) -> Result<Vec<Fate>, Refusal> {
    let mut order: Vec<Entry> = entries.to_vec();
    // One order for all, and for each run of one connection: two runs at once come to the same record.
    order.sort_unstable();
    order.dedup();
    let mut owners = Vec::with_capacity(order.len());
    for entry in order {
        owners.push((entry, owner(&entry)?));
    }
    let is_ours = |(_, owner): &(Entry, Option<Connection>)| *owner == Some(claimant);
    if !owners.iter().any(is_ours) {
        for (entry, owner) in owners.iter_mut().filter(|(_, owner)| owner.is_none()) {
            let now_owner = claim(entry)?;
            *owner = Some(now_owner);
            if now_owner == claimant {
                break;
            }
        }
    }
    let mut given = owners
        .iter()
        .find(|owned| is_ours(owned))
        .map(|(entry, _)| *entry);
    let fate = |entry: &Entry| {
        if given == Some(*entry) {
            // A record that stands twice in the document is one record.
            given = None;
            return Fate::Given;
        }
        match owners.iter().find(|(known, _)| known == entry) {
            Some((_, Some(owner))) if *owner != claimant => Fate::Used(*owner),
            _ => Fate::Spare,
        }
    };
    Ok(entries.iter().map(fate).collect())
}

/// What would become of each entry if a connection that owns none asked about it alone.
fn looked_at(
    entries: &[Entry],
    owner: impl Fn(&Entry) -> Result<Option<Connection>, Refusal>,
) -> Result<Vec<Fate>, Refusal> {
    let fate = |entry| owner(entry).map(|owner| owner.map_or(Fate::Given, Fate::Used));
    entries.iter().map(fate).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn record(expires: u64, digest: u8) -> Entry {
        Entry {
            expires,
            digest: [digest; 32],
        }
    }

    fn connection(pid: u32) -> Connection {
        Connection { pid, start: 7 }
    }

    /// The directory, as it is meant to be.
    #[derive(Default)]
    struct Book(RefCell<BTreeMap<Entry, Connection>>);

    impl Book {
        fn ask(&self, entries: &[Entry], claimant: Connection) -> Vec<Fate> {
            let owner = |entry: &Entry| Ok(self.0.borrow().get(entry).copied());
            let claim = |entry: &Entry| Ok(*self.0.borrow_mut().entry(*entry).or_insert(claimant));
            fates(entries, claimant, owner, claim).unwrap()
        }
    }

    #[test]
    fn the_first_connection_owns_the_record_and_every_other_is_told_whose_it_is() {
        let (book, records) = (Book::default(), [record(60, 1)]);
        assert_eq!(book.ask(&records, connection(10)), [Fate::Given]);
        assert_eq!(book.ask(&records, connection(11)), [Fate::Used(connection(10))]);
        assert_eq!(book.ask(&records, connection(10)), [Fate::Given]);
    }

    #[test]
    fn a_pid_that_came_back_is_another_connection() {
        let (book, records) = (Book::default(), [record(60, 1)]);
        assert_eq!(book.ask(&records, connection(10)), [Fate::Given]);
        let later = Connection { pid: 10, start: 8 };
        assert_eq!(book.ask(&records, later), [Fate::Used(connection(10))]);
    }

    #[test]
    fn a_connection_takes_the_soonest_to_expire_and_leaves_the_others() {
        let (book, records) = (Book::default(), [record(60, 1), record(30, 2), record(45, 3)]);
        let [a, b, c] = [10, 11, 12].map(connection);
        assert_eq!(book.ask(&records, a), [Fate::Spare, Fate::Given, Fate::Spare]);
        assert_eq!(book.ask(&records, b), [Fate::Spare, Fate::Used(a), Fate::Given]);
        assert_eq!(book.ask(&records, a), [Fate::Spare, Fate::Given, Fate::Used(b)]);
        assert_eq!(book.ask(&records, c), [Fate::Given, Fate::Used(a), Fate::Used(b)]);
        assert_eq!(
            book.ask(&records, connection(13)),
            [c, a, b].map(Fate::Used).to_vec()
        );
    }

    #[test]
    fn a_record_pushed_after_the_probe_changes_nothing_for_the_login() {
        let book = Book::default();
        assert_eq!(book.ask(&[record(60, 1)], connection(10)), [Fate::Given]);
        let records = [record(30, 2), record(60, 1)];
        assert_eq!(book.ask(&records, connection(10)), [Fate::Spare, Fate::Given]);
        assert_eq!(
            book.ask(&records, connection(11)),
            [Fate::Given, Fate::Used(connection(10))]
        );
    }

    #[test]
    fn a_record_that_stands_twice_in_the_document_is_one_record() {
        let (book, records) = (Book::default(), [record(60, 1), record(60, 1)]);
        let [a, b] = [10, 11].map(connection);
        assert_eq!(book.ask(&records, a), [Fate::Given, Fate::Spare]);
        assert_eq!(book.ask(&records, b), [Fate::Used(a), Fate::Used(a)]);
    }

    #[test]
    fn who_was_faster_between_look_and_claim_owns_the_record_and_the_next_one_is_tried() {
        let records = [record(30, 1), record(60, 2)];
        let [a, fast] = [10, 11].map(connection);
        let claim = |entry: &Entry| Ok(if entry.expires == 30 { fast } else { a });
        assert_eq!(
            fates(&records, a, |_| Ok(None), claim).unwrap(),
            [Fate::Used(fast), Fate::Given]
        );
    }

    #[test]
    fn a_claim_that_cannot_be_made_gives_nothing() {
        let failed = || unavailable("No space left on device");
        let claimed = fates(&[record(60, 1)], connection(10), |_| Ok(None), |_| Err(failed()));
        assert_eq!(claimed.unwrap_err().reason, Reason::OneTimeUnavailable);
        let asked = fates(
            &[record(60, 1)],
            connection(10),
            |_| Err(failed()),
            |_| Ok(connection(10)),
        );
        assert_eq!(asked.unwrap_err().reason, Reason::OneTimeUnavailable);
    }

    #[test]
    fn a_look_claims_nothing_and_sees_what_is_used() {
        let book = Book::default();
        let records = [record(30, 1), record(60, 2)];
        assert_eq!(book.ask(&records, connection(10)), [Fate::Given, Fate::Spare]);
        let owner = |entry: &Entry| Ok(book.0.borrow().get(entry).copied());
        assert_eq!(
            looked_at(&records, owner).unwrap(),
            [Fate::Used(connection(10)), Fate::Given]
        );
        assert_eq!(book.0.borrow().len(), 1);
    }

    proptest! {
        /// Whoever asks, in whatever order and however often: no record has two owners, and no connection two records.
        #[test]
        fn no_record_is_given_to_two_connections_and_no_connection_gets_two(
            records in proptest::collection::vec((1..5_u64, 0..4_u8), 0..6),
            asking in proptest::collection::vec(0..8_u32, 0..40),
        ) {
            let records: Vec<Entry> = records.iter().map(|&(expires, digest)| record(expires, digest)).collect();
            let book = Book::default();
            let mut given: BTreeMap<Entry, Connection> = BTreeMap::new();
            for claimant in asking.into_iter().map(connection) {
                let fates = book.ask(&records, claimant);
                let got: Vec<Entry> = records.iter().zip(&fates)
                    .filter(|(_, fate)| **fate == Fate::Given).map(|(entry, _)| *entry).collect();
                prop_assert!(got.len() <= 1);
                for entry in got {
                    prop_assert_eq!(*given.entry(entry).or_insert(claimant), claimant);
                }
            }
            let mut owners: Vec<Connection> = given.values().copied().collect();
            owners.sort_unstable();
            owners.dedup();
            prop_assert_eq!(owners.len(), given.len());
        }
    }
}
