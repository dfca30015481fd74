//! What the EC2 Instance Connect service accepts, after the API model that botocore ships
//! (`ec2-instance-connect/2018-04-02/service-2.json`).

use base64::{Engine, engine::general_purpose::STANDARD};

/// Length of an instance id, in characters.
const INSTANCE_ID: std::ops::RangeInclusive<usize> = 10..=32;
/// Length of an OS user name.
const OS_USER_LONGEST: usize = 32;
/// Length of an Availability Zone.
const ZONE: std::ops::RangeInclusive<usize> = 6..=32;
/// Length of an SSH public key, comment and newline included.
const PUBLIC_KEY: std::ops::RangeInclusive<usize> = 80..=4096;
/// The key types that the service takes today.
const KEY_TYPES: [&str; 2] = ["ssh-rsa", "ssh-ed25519"];

/// `^i-[a-f0-9]+$`
pub(crate) fn instance_id(id: &str) -> bool {
    let Some(digits) = id.strip_prefix("i-") else {
        return false;
    };
    INSTANCE_ID.contains(&id.len()) && digits.bytes().all(|b| matches!(b, b'a'..=b'f' | b'0'..=b'9'))
}

/// `^[A-Za-z_][A-Za-z0-9@._-]{0,30}[A-Za-z0-9$_-]?$`, or digits, one of `[A-Za-z@._-]`, and such a rest.
pub(crate) fn os_user(name: &str) -> bool {
    let bytes = name.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || b"@._-".contains(b);
    let last = |b: &u8| b.is_ascii_alphanumeric() || b"$_-".contains(b);
    let Some((first, rest)) = bytes.split_first() else {
        return false;
    };
    if bytes.len() > OS_USER_LONGEST {
        return false;
    }
    let tail = if first.is_ascii_alphabetic() || *first == b'_' {
        rest
    } else {
        let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
        match bytes.get(digits..).and_then(<[u8]>::split_first) {
            Some((mark, tail)) if digits > 0 && inner(mark) => tail,
            _ => return false,
        }
    };
    let Some((end, body)) = tail.split_last() else {
        return true;
    };
    // Only the 32nd character must be one of the last class; before it, either class will do.
    body.iter().all(inner) && (last(end) || (inner(end) && (bytes.len() < OS_USER_LONGEST || tail != rest)))
}

/// `^(\w+-){2,3}\d+\w+$`, which leaves Local Zones and Wavelength zones out.
pub(crate) fn zone(zone: &str) -> bool {
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let parts: Vec<&str> = zone.split('-').collect();
    let last = parts.last().copied().unwrap_or_default();
    ZONE.contains(&zone.len())
        && (3..=4).contains(&parts.len())
        && parts.iter().all(word)
        && last.len() > 1
        && last.bytes().next().is_some_and(|b| b.is_ascii_digit())
}

/// An RSA or Ed25519 key line of lawful length: `type base64`, without comment and newline.
pub(crate) fn public_key(line: &str) -> Option<String> {
    if !PUBLIC_KEY.contains(&line.chars().count()) || line.trim().lines().count() != 1 {
        return None;
    }
    let mut words = line.split_whitespace();
    let (kind, blob) = (words.next()?, words.next()?);
    let bytes = STANDARD.decode(blob).ok()?;
    // RFC 4253 section 6.6: the blob starts with the type as a string
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let inner = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    (KEY_TYPES.contains(&kind) && inner == kind.as_bytes()).then(|| format!("{kind} {blob}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_ids_are_hexadecimal() {
        assert!(instance_id("i-01234567") && instance_id("i-0123456789abcdef0"));
        for wrong in [
            "",
            "i-",
            "i-0123456",
            "i-0123456G",
            "j-01234567",
            "i-0123456789ABCDEF0",
        ] {
            assert!(!instance_id(wrong), "{wrong}");
        }
    }

    #[test]
    fn os_users_follow_the_pattern_and_nothing_else() {
        let long = "a".repeat(32);
        let dotted = format!("{}.", "a".repeat(30));
        for right in [
            "a", "_", "ec2-user", "svc$", "a@b.c", "a.", "0a", "12.", "1-$", "1@", &long, &dotted,
        ] {
            assert!(os_user(right), "{right}");
        }
        let longer = "a".repeat(33);
        let dotted = format!("{}.", "a".repeat(31));
        for wrong in [
            "", "$", "-a", ".a", "@a", "1", "12", "a$b", "1$", "a b", "é", &longer, &dotted, "a\n",
        ] {
            assert!(!os_user(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn zones_have_three_or_four_words() {
        assert!(zone("us-east-1a") && zone("us-gov-west-1b"));
        for wrong in [
            "",
            "us-1a",
            "us-east-1",
            "us-east-a1",
            "us-west-2-lax-1a",
            "us--1a",
        ] {
            assert!(!zone(wrong), "{wrong}");
        }
    }

    #[test]
    fn keys_are_rsa_or_ed25519_with_a_blob_of_that_type() {
        let blob = "AAAAC3NzaC1lZDI1NTE5AAAAIBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";
        let bare = format!("ssh-ed25519 {blob}");
        assert_eq!(bare.len(), 80);
        assert_eq!(public_key(&bare), Some(bare.clone()));
        assert_eq!(public_key(&format!("{bare} me@here\n")), Some(bare.clone()));
        let ecdsa = format!("ecdsa-sha2-nistp256 {blob}");
        for wrong in [
            &format!("ssh-rsa {blob}     "),
            &ecdsa,
            &format!("{bare}\n{bare}"),
            &bare[..79],
            "x",
        ] {
            assert_eq!(public_key(wrong), None, "{wrong}");
        }
        assert_eq!(public_key(&format!("{bare} {}", "x".repeat(4096))), None);
    }
}
