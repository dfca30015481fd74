//! What the metadata service said to the probe, as checks: whether it can be reached, the clock, and the signer.

use super::check::{Finding, Id, Sheet};
use super::probe::{Reach, Refused, Report, Step};
use crate::reason::Reason;

/// Seconds by which our clock may differ from the metadata's before it eats into the minute that a key lives.
const CLOCK_WARN: u64 = 5;
/// And from where on a fresh key is taken for an expired one, or an expired one for fresh.
const CLOCK_FAIL: u64 = 30;

/// Days that a signer's chain should still hold: AWS renews it long before.
const SIGNER_DAYS: i64 = 2;
/// Hours that a staple should still hold.
const STAPLE_HOURS: i64 = 6;

/// The metadata service, by the configuration's address and by each family.
pub(super) fn reach(report: &Report, name: &str, sheet: &mut Sheet) -> bool {
    let usable = match &report.imds {
        Some(Reach {
            token: Step::Held(address),
            ..
        }) => sheet.note(
            Id::Imds,
            Finding::pass(format!("{address} gives {name} a token (IMDSv2)")),
        ),
        Some(Reach {
            token: Step::Refused(refused),
            connects,
        }) => sheet.note(Id::Imds, unreachable(refused, *connects, name)),
        None => sheet.note(Id::Imds, Finding::skip("the metadata was not asked")),
    };
    for (id, reach) in [(Id::ImdsIpv4, &report.ipv4), (Id::ImdsIpv6, &report.ipv6)] {
        let finding = match reach {
            None => Finding::skip("the configuration names another address"),
            Some(Reach {
                token: Step::Held(address),
                ..
            }) => Finding::pass(format!("{address} answers")),
            // The service answers on IPv6 only where it was asked for; one family is enough.
            Some(Reach {
                token: Step::Refused(refused),
                ..
            }) if usable => Finding::skip(format!("{}; not needed", refused.detail)),
            Some(Reach {
                token: Step::Refused(refused),
                ..
            }) => Finding::skip(format!("see imds; {}", refused.detail)),
        };
        let _ = sheet.note(id, finding);
    }
    usable
}

/// Clock, place, signer and staples.
pub(super) fn evidence(report: &Report, sheet: &mut Sheet) {
    let _ = sheet.note(Id::Clock, clock(report.date.as_ref()));
    match &report.place {
        Some(Step::Held(seen)) => {
            let _ = sheet.note(Id::Place, Finding::pass(seen));
        }
        other => {
            let _ = sheet.note(Id::Place, refused(other.as_ref()));
            return sheet.skip(&[Id::Signer, Id::Anchors, Id::Staples], Id::Place);
        }
    }
    let now = crate::authorize::now().map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    match &report.signer {
        Some(Step::Held(ends)) => {
            let days = ends.saturating_sub(now).div_euclid(86_400);
            let seen = format!("the chain holds for {days} more days");
            let finding = if days < SIGNER_DAYS {
                Finding::warn(
                    seen,
                    "AWS renews it; if this stays so, open a case with AWS support",
                )
            } else {
                Finding::pass(seen)
            };
            let _ = sheet.note(Id::Signer, finding);
        }
        other => {
            let _ = sheet.note(Id::Signer, refused(other.as_ref()));
            return sheet.skip(&[Id::Anchors, Id::Staples], Id::Signer);
        }
    }
    let anchors = report.anchors.clone().unwrap_or_default();
    let finding = if anchors == "amazon" {
        Finding::pass("Amazon's roots, built in")
    } else {
        Finding::warn(
            format!("not Amazon's built-in roots but {anchors}"),
            "whoever can write there decides who may sign: see that it is meant so ([trust] anchors)",
        )
    };
    let _ = sheet.note(Id::Anchors, finding);
    let finding = match &report.staples {
        Some(Step::Held(Some(ends))) => {
            let hours = ends.saturating_sub(now).div_euclid(3_600);
            let seen = format!("nobody has revoked it, known for {hours} more hours");
            if hours < STAPLE_HOURS {
                Finding::warn(
                    seen,
                    "AWS renews them; if this stays so, open a case with AWS support",
                )
            } else {
                Finding::pass(seen)
            }
        }
        Some(Step::Held(None)) => Finding::warn(
            "there are no staples, and the configuration lets them be absent",
            "[trust] ocsp = 'require' asks for them",
        ),
        other => refused(other.as_ref()),
    };
    let _ = sheet.note(Id::Staples, finding);
}

/// Why the metadata gave nothing, and what to do.
fn unreachable(refused: &Refused, connects: bool, name: &str) -> Finding {
    const OPTIONS: &str = "aws ec2 modify-instance-metadata-options --instance-id ID";
    let seen = format!("as {name}: {} ({})", refused.detail, refused.reason);
    if refused.is(Reason::ImdsForbidden) {
        let seen = format!("{seen}: the metadata service is switched off for this instance");
        Finding::fail(seen, format!("from elsewhere: {OPTIONS} --http-endpoint enabled"))
    } else if refused.is(Reason::ImdsTimeout) && connects {
        Finding::fail(
            format!("{seen}, yet it takes connections: the answer dies on its way, as by a hop limit of 1"),
            format!("from elsewhere: {OPTIONS} --http-put-response-hop-limit 2"),
        )
    } else if refused.is(Reason::ImdsTimeout) || refused.is(Reason::ImdsUnreachable) {
        Finding::fail(
            seen,
            "let this uid reach 169.254.169.254 port 80: see `ip route get 169.254.169.254`, `iptables-save` and `nft \
             list ruleset`",
        )
    } else {
        Finding::fail(seen, format!("see {} in docs/REASONS.md", refused.reason))
    }
}

/// The clock against the metadata's.
fn clock(date: Option<&(Option<String>, u64)>) -> Finding {
    let Some((Some(text), ours)) = date else {
        return Finding::skip("the metadata said no date");
    };
    // IMF-fixdate is a date of RFC 5322 with GMT for a zone (RFC 9110 §5.6.7).
    let theirs = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
    let Some(theirs) = theirs.ok().and_then(|time| u64::try_from(time.as_second()).ok()) else {
        return Finding::skip(format!("the metadata's date cannot be read: {text}"));
    };
    let apart = ours.abs_diff(theirs);
    let seen = format!(
        "{apart} s {} the metadata's",
        if *ours < theirs { "behind" } else { "ahead of" }
    );
    let remedy = "set the clock: `chronyc makestep` or `timedatectl set-ntp true`; the time service is at 169.254.169.123";
    if apart <= CLOCK_WARN {
        Finding::pass(seen)
    } else if apart < CLOCK_FAIL {
        Finding::warn(seen, remedy)
    } else {
        Finding::fail(seen, remedy)
    }
}

fn refused<T>(step: Option<&Step<T>>) -> Finding {
    match step {
        Some(Step::Refused(refused)) => Finding::fail(
            format!("{} ({})", refused.detail, refused.reason),
            format!("see {} in docs/REASONS.md", refused.reason),
        ),
        _ => Finding::skip("it was not asked"),
    }
}
