//! What the helper and sshd say, read from a message's text.
//!
//! Every form is anchored at both ends and taken word by word: a message counts only when all of it is what
//! the program writes, so nothing that a client put into a user name can pretend to be more. Bytes outside
//! printable ASCII are in none of these messages (the helper escapes them, OpenSSH does so in do_log() of
//! log.c with strnvis(3)), so a message that has one is none of ours.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use crate::instance::InstanceId;
use crate::request::{Fingerprint, LoginName};
use crate::stat::decimal;

use super::event::{Connection, Grant, Helper, Key, Lines, Peer, Safe, Sshd};

/// The longest message that can be ours: two escaped words of [`crate::escape::MAX_SHOWN`] bytes, each byte
/// four characters at worst, and the sentence around them, come to 4.5 KiB.
pub const MAX_MESSAGE: usize = 8 * 1024;

/// The message as text, if it could be ours at all.
fn plain(message: &[u8]) -> Option<&str> {
    let fits = message.len() <= MAX_MESSAGE && message.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
    fits.then(|| std::str::from_utf8(message).ok()).flatten()
}

/// What the helper says in `message`: this package's (see [`crate::audit`]), or the shell scripts before it.
#[must_use]
pub fn helper(message: &[u8]) -> Option<Helper> {
    let message = plain(message)?;
    if let Some(rest) = message.strip_prefix("Providing ssh key from EC2 Instance Connect with fingerprint: ")
    {
        provided(rest)
    } else if let Some(rest) = message.strip_prefix("Refused EC2 Instance Connect keys for ") {
        refused(rest)
    } else if let Some(rest) = message.strip_prefix("Passing on ") {
        linked(rest)
    } else {
        let rest = message.strip_prefix("Querying EC2 Instance Connect keys for matching fingerprint: ")?;
        Fingerprint::new(rest).ok().map(Helper::Queried)
    }
}

/// `F[, request-id: R][, for IAM principal: ARN][ user=U sshd-pid=P expires=T[ instance=I]]`
fn provided(rest: &str) -> Option<Helper> {
    let (fingerprint, rest) = rest.split_at(rest.find([',', ' ']).unwrap_or(rest.len()));
    let fingerprint = Fingerprint::new(fingerprint).ok()?;
    let (request_id, rest) = clause(rest, ", request-id: ")?;
    let (principal, rest) = clause(rest, ", for IAM principal: ")?;
    let mut expires = None;
    let mut instance = None;
    let mut connection = None;
    if !rest.is_empty() {
        let (user, rest) = field(rest, " user=")?;
        let (pid, rest) = field(rest, " sshd-pid=")?;
        let (seconds, rest) = field(rest, " expires=")?;
        if !rest.is_empty() {
            let (id, end) = field(rest, " instance=")?;
            instance = Some(InstanceId::new(id)?);
            end.is_empty().then_some(())?;
        }
        expires = Some(decimal(seconds)?);
        connection = Some(self::connection(user, pid)?);
    }
    Some(Helper::Provided {
        fingerprint,
        grant: Grant {
            request_id,
            principal,
            expires,
        },
        connection,
        instance,
    })
}

/// `U: reason=CODE user=U sshd-pid=P [records=N] detail="..."`
fn refused(rest: &str) -> Option<Helper> {
    let (named, rest) = rest.split_once(": ")?;
    let (reason, rest) = field(rest, "reason=")?;
    let (user, rest) = field(rest, " user=")?;
    let (pid, rest) = field(rest, " sshd-pid=")?;
    let rest = match rest.strip_prefix(" records=") {
        Some(_) => {
            field(rest, " records=")
                .filter(|(count, _)| decimal::<u64>(count).is_some())?
                .1
        }
        None => rest,
    };
    let (detail, end) = quoted(rest, " detail=")?;
    (named == user && end.is_empty()).then_some(())?;
    Some(Helper::Refused {
        reason: code(reason)?,
        detail,
        connection: connection(user, pid)?,
    })
}

/// `N lines of link NAME for U: lines=N user=U sshd-pid=P link=NAME[ fingerprint=F]`, or
/// `nothing of link NAME for U: reason=CODE detail="..." user=U sshd-pid=P link=NAME[ fingerprint=F]`
fn linked(rest: &str) -> Option<Helper> {
    let (named, rest) = rest.split_once(": ")?;
    let (lines, prefix, rest) = if let Some(rest) = rest.strip_prefix("reason=") {
        let (reason, rest) = field(rest, "")?;
        let (detail, rest) = quoted(rest, " detail=")?;
        let reason = code(reason)?;
        (Lines::Withheld { reason, detail }, "nothing".to_owned(), rest)
    } else {
        let (count, rest) = field(rest, "lines=")?;
        (Lines::Passed(decimal(count)?), format!("{count} lines"), rest)
    };
    let (user, rest) = field(rest, " user=")?;
    let (pid, rest) = field(rest, " sshd-pid=")?;
    let (link, rest) = field(rest, " link=")?;
    let fingerprint = match rest {
        "" => None,
        rest => {
            let (fingerprint, end) = field(rest, " fingerprint=")?;
            end.is_empty().then_some(())?;
            Some(Fingerprint::new(fingerprint).ok()?)
        }
    };
    (named == format!("{prefix} of link {link} for {user}")).then_some(())?;
    Some(Helper::Linked {
        link: Safe::new(link),
        lines,
        fingerprint,
        connection: connection(user, pid)?,
    })
}

fn connection(user: &str, pid: &str) -> Option<Connection> {
    Some(Connection {
        user: Safe::new(user),
        pid: decimal(pid)?,
    })
}

/// A reason's stable code.
fn code(word: &str) -> Option<Safe> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    word.bytes().all(plain).then(|| Safe::new(word))
}

/// What stands in quotes behind `prefix`, and what follows. Its own quotes are escaped, so the next one ends it.
fn quoted<'a>(rest: &'a str, prefix: &str) -> Option<(Safe, &'a str)> {
    let (detail, rest) = rest.strip_prefix(prefix)?.strip_prefix('"')?.split_once('"')?;
    Some((Safe::new(detail), rest))
}

/// A clause that may be absent: its one word, and what follows. Nothing where it is there without a word.
///
/// Before another clause the word's own comma ends it, as no request id has one; an ARN may have some
/// (`assumed-role/R/a,b`), so the last clause ends at the blank only.
fn clause<'a>(rest: &'a str, prefix: &str) -> Option<(Option<Safe>, &'a str)> {
    let Some(rest) = rest.strip_prefix(prefix) else {
        return Some((None, rest));
    };
    let last = prefix.contains("principal");
    let end = rest
        .find(|c: char| c == ' ' || (c == ',' && !last))
        .unwrap_or(rest.len());
    let (word, rest) = rest.split_at(end);
    (!word.is_empty()).then(|| (Some(Safe::new(word)), rest))
}

/// The word behind `prefix`, up to the next blank, and what follows.
fn field<'a>(rest: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let rest = rest.strip_prefix(prefix)?;
    let (word, rest) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
    (!word.is_empty()).then_some((word, rest))
}

/// What sshd, or PAM within it, says in `message`, of what matters here.
///
/// A user whose name is not of the service's shape cannot have come through us, so such a line is none of
/// ours; no name of that shape has a blank, and so each line's words are counted without doubt.
#[must_use]
pub fn sshd(message: &[u8]) -> Option<Sshd> {
    let message = plain(message)?;
    let mut words = message.split(' ');
    match words.next()? {
        step @ ("Accepted" | "Partial") => accepted(step == "Partial", words),
        "pam_unix(sshd:session):" => {
            expect(&mut words, ["session", "closed", "for", "user"])?;
            let user = LoginName::new(words.next()?).ok()?;
            words.next().is_none().then_some(Sshd::Closed(user))
        }
        "Disconnected" => {
            expect(&mut words, ["from"])?;
            gone(words, [])
        }
        "Connection" => match words.next()? {
            "closed" | "reset" => {
                expect(&mut words, ["by"])?;
                gone(words, [])
            }
            "from" => gone(words, ["timed", "out"]),
            _ => None,
        },
        "Timeout," => {
            expect(&mut words, ["client", "not", "responding", "from"])?;
            gone(words, [])
        }
        _ => None,
    }
}

type Words<'a> = std::str::Split<'a, char>;

fn expect<const N: usize>(words: &mut Words<'_>, wanted: [&str; N]) -> Option<()> {
    wanted.iter().all(|word| words.next() == Some(word)).then_some(())
}

/// `METHOD[/SUB] for U from ADDR port P ssh2[: TYPE F[ ID ...]]`, auth_log() of auth.c.
fn accepted(partial: bool, mut words: Words<'_>) -> Option<Sshd> {
    let method = words.next()?;
    expect(&mut words, ["for"])?;
    let user = LoginName::new(words.next()?).ok()?;
    expect(&mut words, ["from"])?;
    let peer = peer(&mut words)?;
    let key = match (method, words.next()?) {
        ("publickey", "ssh2:") => {
            let kind = words.next()?;
            let fingerprint = Fingerprint::new(words.next()?).ok()?;
            // A certificate's own words follow, with an id of the CA's choosing; for a plain key nothing does.
            let certificate = kind.ends_with("-CERT");
            (certificate || words.next().is_none()).then_some(())?;
            Some(Key {
                kind: key_kind(kind)?,
                fingerprint,
            })
        }
        ("publickey", _) => return None,
        // hostbased and gssapi-with-mic have words of their own.
        (_, "ssh2" | "ssh2:") => None,
        _ => return None,
    };
    Some(Sshd::Accepted {
        partial,
        user,
        peer,
        key,
    })
}

/// `RSA`, `ED25519`, `ECDSA-SK-CERT`: sshkey_type().
fn key_kind(text: &str) -> Option<String> {
    let plain = text
        .bytes()
        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-');
    (plain && (1..=20).contains(&text.len())).then(|| text.to_owned())
}

/// `[user U ]ADDR port P`, fmt_connection_id() of packet.c and the preamble that a session sets; then `end`.
/// Before authentication the preamble says `authenticating user` or `invalid user`: not ours.
fn gone<const N: usize>(words: Words<'_>, end: [&str; N]) -> Option<Sshd> {
    let mut named = words.clone();
    let (user, mut words) = if named.next() == Some("user") {
        (Some(LoginName::new(named.next()?).ok()?), named)
    } else {
        (None, words)
    };
    let peer = peer(&mut words)?;
    expect(&mut words, end)?;
    // Also the unprivileged `[preauth]` ends here.
    words.next().is_none().then_some(Sshd::Gone(user, peer))
}

/// `ADDR port P`. An IPv6 address may have a zone; a connection that is no socket has `UNKNOWN`.
fn peer(words: &mut Words<'_>) -> Option<Peer> {
    let address = words.next()?;
    let (number_part, zone) = address.split_once('%').unwrap_or((address, "0"));
    let ip = number_part.parse::<IpAddr>().is_ok() || address == "UNKNOWN";
    let zone = (1..=15).contains(&zone.len())
        && zone
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    expect(words, ["port"])?;
    // 7.4 writes `Received disconnect from ADDR port P:11:`, but that line is not among ours.
    let port = decimal(words.next()?)?;
    (ip && zone).then(|| Peer {
        address: address.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: &str = "SHA256:Zg1HnF8UMBuHm2bZ8XGZrTnQ+0d5hN6Ww3kkoS2pPGo";

    fn login(user: &str) -> String {
        format!("Accepted publickey for {user} from 192.0.2.7 port 50022 ssh2: ED25519 {F}")
    }

    #[test]
    fn our_own_line_is_read_whole() {
        let line = format!(
            "Providing ssh key from EC2 Instance Connect with fingerprint: {F}, request-id: 5e8e-1, for IAM \
             principal: arn:aws:sts::123456789012:assumed-role/Admin/a,b user=ec2-user sshd-pid=812 \
             expires=1738233608 instance=i-0123456789abcdef0"
        );
        let Some(Helper::Provided {
            grant,
            connection,
            instance,
            fingerprint,
        }) = helper(line.as_bytes())
        else {
            panic!("not read");
        };
        assert_eq!(fingerprint.to_string(), F);
        assert_eq!(grant.request_id.unwrap().as_str(), "5e8e-1");
        assert_eq!(
            grant.principal.unwrap().as_str(),
            "arn:aws:sts::123456789012:assumed-role/Admin/a,b"
        );
        assert_eq!(grant.expires, Some(1_738_233_608));
        let connection = connection.unwrap();
        assert_eq!((connection.user.as_str(), connection.pid), ("ec2-user", 812));
        assert_eq!(instance.unwrap().as_str(), "i-0123456789abcdef0");
    }

    #[test]
    fn every_optional_part_may_be_absent() {
        for request in ["", ", request-id: r"] {
            for principal in ["", ", for IAM principal: arn:aws:iam::1:user/x"] {
                for ours in [
                    "",
                    " user=u sshd-pid=1 expires=2",
                    " user=u sshd-pid=1 expires=2 instance=i-01234567",
                ] {
                    let line = format!(
                        "Providing ssh key from EC2 Instance Connect with fingerprint: {F}{request}{principal}{ours}"
                    );
                    let Some(Helper::Provided {
                        grant,
                        connection,
                        instance,
                        ..
                    }) = helper(line.as_bytes())
                    else {
                        panic!("{line}");
                    };
                    assert_eq!(grant.request_id.is_some(), !request.is_empty());
                    assert_eq!(grant.principal.is_some(), !principal.is_empty());
                    assert_eq!(connection.is_some(), !ours.is_empty());
                    assert_eq!(instance.is_some(), ours.contains("instance"));
                }
            }
        }
    }

    #[test]
    fn a_helper_line_with_anything_more_or_less_is_none() {
        let line = format!(
            "Providing ssh key from EC2 Instance Connect with fingerprint: {F} user=u sshd-pid=1 expires=2"
        );
        assert!(helper(line.as_bytes()).is_some());
        for wrong in [
            format!("{line} "),
            format!("{line} instance="),
            format!("{line} instance=i-XYZ"),
            format!(" {line}"),
            format!("{line}\n"),
            line.replace("sshd-pid=1", "sshd-pid=+1"),
            line.replace("sshd-pid=1", "sshd-pid=99999999999"),
            line.replace("user=u ", ""),
            line.replace(F, "SHA256:short"),
        ] {
            assert_eq!(helper(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_refusal_is_read_with_its_reason() {
        let line = r#"Refused EC2 Instance Connect keys for a\x20b: reason=user user=a\x20b sshd-pid=77 records=3 detail="no key \x22x\x22""#;
        let Some(Helper::Refused {
            reason,
            detail,
            connection,
        }) = helper(line.as_bytes())
        else {
            panic!("not read");
        };
        assert_eq!((reason.as_str(), detail.as_str()), ("user", r"no key \x22x\x22"));
        assert_eq!((connection.user.as_str(), connection.pid), (r"a\x20b", 77));
        for wrong in [
            line.replace("sshd-pid=77", "sshd-pid=x"),
            line.replace("keys for a", "keys for b"),
            format!("{line}x"),
        ] {
            assert_eq!(helper(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn what_came_of_a_link_is_read_whole() {
        let passed = "Passing on 2 lines of link sss-d.1 for u: lines=2 user=u sshd-pid=7 link=sss-d.1";
        let withheld = r#"Passing on nothing of link s for u: reason=link-failed detail="exit status 1" user=u sshd-pid=7 link=s"#;
        for (line, expected) in [
            (passed, Lines::Passed(2)),
            (
                withheld,
                Lines::Withheld {
                    reason: Safe::new("link-failed"),
                    detail: Safe::new("exit status 1"),
                },
            ),
        ] {
            for asked in ["", F, "MD5:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff"] {
                let word = if asked.is_empty() {
                    String::new()
                } else {
                    format!(" fingerprint={asked}")
                };
                let Some(Helper::Linked {
                    link,
                    lines,
                    fingerprint,
                    connection,
                }) = helper(format!("{line}{word}").as_bytes())
                else {
                    panic!("{line}{word}");
                };
                assert!(line.ends_with(&format!("link={link}")));
                assert_eq!(lines, expected);
                assert_eq!(fingerprint.map(|it| it.to_string()).unwrap_or_default(), asked);
                assert_eq!((connection.user.as_str(), connection.pid), ("u", 7));
            }
        }
        for wrong in [
            passed.replace("lines=2", "lines=3"),
            passed.replace("lines=2", "lines=+2"),
            passed.replace("link=sss", "link=ss"),
            passed.replace(" for u", " for v"),
            passed.replace("sshd-pid=7", "sshd-pid="),
            format!("{passed} "),
            format!("{passed} fingerprint={F} x"),
            format!("{passed} fingerprint=SHA256:short"),
            withheld.replace("reason=link-failed", "reason=Link"),
            withheld.replace("status 1", "status \"1"),
            withheld.replace("nothing", "0 lines"),
        ] {
            assert_eq!(helper(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn logins_are_read_as_sshd_writes_them() {
        let Some(Sshd::Accepted {
            partial: false,
            user,
            peer,
            key: Some(key),
        }) = sshd(login("ec2-user").as_bytes())
        else {
            panic!("not read");
        };
        assert_eq!(
            (user.as_str(), peer.address.as_str(), peer.port),
            ("ec2-user", "192.0.2.7", 50022)
        );
        assert_eq!(
            (key.kind.as_str(), key.fingerprint.to_string().as_str()),
            ("ED25519", F)
        );
        for line in [
            format!("Accepted publickey for u from fe80::1%eth0 port 22 ssh2: RSA-CERT {F} ID a b c (serial 0) CA RSA {F}"),
            format!("Partial publickey for u from ::1 port 22 ssh2: RSA {F}"),
            "Accepted keyboard-interactive/pam for u from 192.0.2.7 port 1 ssh2".to_owned(),
            "Accepted publickey for u from 192.0.2.7 port 1 ssh2: RSA MD5:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff".to_owned(),
            "Accepted publickey for u from UNKNOWN port 65535 ssh2: RSA MD5:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff".to_owned(),
        ] {
            assert!(sshd(line.as_bytes()).is_some(), "{line}");
        }
    }

    #[test]
    fn a_login_forged_inside_a_user_name_is_none() {
        let forged = login("root");
        for line in [
            format!("Invalid user {forged} from 192.0.2.9 port 4"),
            login(&format!("x from 192.0.2.1 port 1 ssh2: RSA {F} ")),
            login("root from 198.51.100.1 port 22 ssh2"),
            format!("{forged} from 192.0.2.9 port 4 ssh2: RSA {F}"),
            format!("Failed publickey for invalid user {forged}"),
            login(r"a\012b"),
            format!("\u{1b}[2J{forged}"),
            format!("{forged}\nx"),
            format!("{forged}#012x"),
        ] {
            assert_eq!(sshd(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn a_megabyte_is_none() {
        let line = format!("{} {}", login("root"), "x".repeat(1 << 20));
        assert_eq!(sshd(line.as_bytes()), None);
    }

    #[test]
    fn every_end_of_a_connection_is_read() {
        for (line, user) in [
            ("Disconnected from user u 192.0.2.7 port 9", true),
            ("Disconnected from 192.0.2.7 port 9", false),
            ("Connection closed by user u 192.0.2.7 port 9", true),
            ("Connection closed by 192.0.2.7 port 9", false),
            ("Connection reset by 192.0.2.7 port 9", false),
            ("Connection from user u 192.0.2.7 port 9 timed out", true),
            (
                "Timeout, client not responding from user u 192.0.2.7 port 9",
                true,
            ),
        ] {
            let Some(Sshd::Gone(name, peer)) = sshd(line.as_bytes()) else {
                panic!("{line}");
            };
            assert_eq!((name.is_some(), peer.port), (user, 9), "{line}");
        }
        assert!(matches!(
            sshd(b"pam_unix(sshd:session): session closed for user u"),
            Some(Sshd::Closed(_))
        ));
    }

    #[test]
    fn the_end_of_an_attempt_is_not_the_end_of_a_session() {
        for line in [
            "Disconnected from authenticating user u 192.0.2.7 port 9 [preauth]",
            "Disconnected from invalid user u 192.0.2.7 port 9 [preauth]",
            "Connection closed by 192.0.2.7 port 9 [preauth]",
            "Connection from 192.0.2.7 port 9 on 192.0.2.1 port 22 rdomain \"\"",
            "pam_unix(sshd:session): session closed for user u x",
            "pam_unix(su:session): session closed for user u",
        ] {
            assert_eq!(sshd(line.as_bytes()), None, "{line}");
        }
    }
}
