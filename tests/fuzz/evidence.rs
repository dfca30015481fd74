//! Valid evidence, made once by `cargo test --test corpus -- --ignored` and committed in `evidence/`; and what is true
//! of it, worked out here without the code that is under test.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ec2_instance_connect::config::OcspPolicy;
use ec2_instance_connect::file::Owner;
use ec2_instance_connect::instance::InstanceId;
use ec2_instance_connect::keys::{self, AuthorizedKey, Question};
use ec2_instance_connect::reason::Refusal;
use ec2_instance_connect::trust::anchors::{AnchorSet, Source};
use ec2_instance_connect::trust::{Chain, TrustedSigner, VerifiedChain};
use pki_types::UnixTime;

/// When the evidence was made, 2026-01-01, in Unix seconds.
pub const NOW: u64 = 1_767_225_600;
/// How long each of the two records counts from then on, in seconds.
pub const LIFETIMES: [u64; 2] = [60, 3600];
/// A day in seconds.
pub const DAY: u64 = 86_400;
/// The signer's certificate counts this long before and after [`NOW`].
pub const LEAF_DAYS: (u64, u64) = (30, 60);
/// The staples do, in seconds.
pub const STAPLE_WINDOW: (u64, u64) = (3600, 7 * DAY);

pub const INSTANCE: &str = "i-0123456789abcdef0";
pub const OTHER_INSTANCE: &str = "i-0fedcba9876543210";
pub const HOST: &str = "managed-ssh-signer.us-east-1.amazonaws.com";
pub const CALLERS: [&str; 2] = [
    "arn:aws:iam::123456789012:user/alice",
    "arn:aws:iam::123456789012:user/bob",
];

/// The keys of the two records. ssh-ed25519, made by ssh-keygen.
pub const KEYS: [&str; 2] = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGhJKvIPFZnT/ELYPYqf4oFX6Qe/2nvtk8uPJl6nHJoJ",
];
/// The key of everybody who should not come in.
pub const EVIL_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJF5rgRD0/4/DlEhq/xlB9wQVcM3SFKajgdLSwyKViJI";

macro_rules! files {
    ($($(#[$doc:meta])* $name:ident = $file:literal,)*) => {
        $($(#[$doc])* pub const $name: &[u8] = include_bytes!(concat!("evidence/", $file));)*
    };
}

files! {
    /// The anchor.
    ROOT = "root.der",
    /// The signer's certificate.
    LEAF = "leaf.der",
    /// Its issuer's.
    ISSUER = "issuer.der",
    /// The anchor, signed by an older one: served, of no use.
    CROSS_ROOT = "cross-root.der",
    /// The same authority's certificate for another name: everybody can have one.
    EVIL_LEAF = "evil-leaf.der",
    /// A certificate with the signer's name, by an authority that nobody trusts.
    STRANGE_LEAF = "strange-leaf.der",
    /// That authority's certificate.
    STRANGE_ROOT = "strange-root.der",
    /// The signer's staple, by its issuer.
    LEAF_STAPLE = "leaf.ocsp",
    /// The same, by a delegate.
    LEAF_STAPLE_DELEGATED = "leaf-delegated.ocsp",
    /// The issuer's staple.
    ISSUER_STAPLE = "issuer.ocsp",
    /// The other name's staple.
    EVIL_STAPLE = "evil-leaf.ocsp",
    /// The signer is revoked.
    REVOKED = "leaf-revoked.ocsp",
    /// A staple that has ended.
    ENDED = "leaf-ended.ocsp",
    /// The signer is good, says a stranger.
    FORGED = "leaf-forged.ocsp",
    /// Both good records.
    RECORDS = "records",
    /// Records that must not count, signed by the signer: another instance's, and one that has expired.
    OTHER_RECORDS = "other-records",
    /// [`EVIL_KEY`], signed with the key of [`EVIL_LEAF`].
    EVIL_RECORDS = "evil-records",
}

/// A record that the signer signed.
pub struct Genuine {
    pub instance: &'static str,
    pub key: &'static str,
    /// Unix seconds.
    pub expires: u64,
    pub caller: &'static str,
}

/// All that the signer signed: two records for this instance, one for another, and one that has expired.
pub const GENUINE: [Genuine; 4] = [
    Genuine {
        instance: INSTANCE,
        key: KEYS[0],
        expires: NOW + LIFETIMES[0],
        caller: CALLERS[0],
    },
    Genuine {
        instance: INSTANCE,
        key: KEYS[1],
        expires: NOW + LIFETIMES[1],
        caller: CALLERS[1],
    },
    Genuine {
        instance: OTHER_INSTANCE,
        key: EVIL_KEY,
        expires: NOW + LIFETIMES[1],
        caller: CALLERS[1],
    },
    Genuine {
        instance: INSTANCE,
        key: EVIL_KEY,
        expires: NOW - 1,
        caller: CALLERS[1],
    },
];

/// What must hold of every key that comes out: signed by the signer, for this instance, for a time still to come.
pub fn check(key: &AuthorizedKey, instance: &str, now: u64) {
    let signed = GENUINE.iter().any(|record| {
        (record.instance, record.key, record.expires) == (instance, key.line(), key.expires())
            && key.caller() == Some(record.caller)
            && now < record.expires
    });
    assert!(signed, "nobody signed {key:?} for {instance} at {now}");
}

/// Judges a key document with the genuine signer; gives the number of keys.
pub fn keys_of(document: &[u8], instance: &str, now: u64) -> usize {
    static SIGNER: OnceLock<TrustedSigner> = OnceLock::new();
    let signer = SIGNER.get_or_init(|| {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let chain = Chain::from_pem(&[pem(LEAF), pem(ISSUER)].concat()).expect("the chain is read");
        let chain = verify(&chain, at).expect("the chain is sound");
        let staples = [LEAF_STAPLE, ISSUER_STAPLE].map(|der| STANDARD.encode(der).into_bytes());
        TrustedSigner::prove(&chain, staples.iter().map(Vec::as_slice), OcspPolicy::Require, at)
            .expect("the staples are sound")
    });
    let question = Question {
        instance: &InstanceId::new(instance).expect("it is one"),
        fingerprint: None,
        now: UnixTime::since_unix_epoch(Duration::from_secs(now)),
    };
    let verdicts = keys::judge(document, question, signer);
    let keys = verdicts.iter().flatten();
    keys.inspect(|key| check(key, instance, now)).count()
}

/// Verifies a chain to the make-believe root.
///
/// # Errors
/// Why not.
pub fn verify(chain: &Chain, now: UnixTime) -> Result<VerifiedChain, Refusal> {
    let anchors = AnchorSet::load(Source::File(&anchors()), Owner::RootOrSelf, chain)?;
    chain.verify(&anchors, HOST, now)
}

/// The path of a bundle with the make-believe root, which is gone when the process is.
pub fn anchors() -> PathBuf {
    static FILE: OnceLock<std::fs::File> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&pem(ROOT)).expect("the root is written");
        file
    });
    use std::os::fd::AsRawFd as _;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A certificate as PEM (RFC 7468).
pub fn pem(der: &[u8]) -> Vec<u8> {
    let mut text = b"-----BEGIN CERTIFICATE-----\n".to_vec();
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(b"-----END CERTIFICATE-----\n");
    text
}

/// The contents of a PEM document, so far as they are base64.
pub fn pem_contents(document: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(document);
    let mut contents = Vec::new();
    for part in text.split("-----BEGIN CERTIFICATE-----").skip(1) {
        let base64 = part.split("-----END").next().unwrap_or_default();
        let base64: String = base64.split_ascii_whitespace().collect();
        contents.push(STANDARD.decode(base64).unwrap_or_default());
    }
    contents
}

/// Whether one of the documents has `part` in it.
pub fn holds(documents: &[Vec<u8>], part: &[u8]) -> bool {
    documents
        .iter()
        .any(|document| document.windows(part.len()).any(|window| window == part))
}

/// One DER element: tag, content, the element whole, and what follows.
pub struct Element<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    pub whole: &'a [u8],
    pub rest: &'a [u8],
}

/// The first DER element, if there is a whole one.
pub fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let (&tag, after) = bytes.split_first()?;
    let (&first, mut body) = after.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, tail) = body.split_at_checked(usize::from(first & 0x7f))?;
        length = digits.iter().try_fold(0_usize, |n, digit| {
            n.checked_mul(256)?.checked_add(usize::from(*digit))
        })?;
        body = tail;
    }
    let (content, rest) = body.split_at_checked(length)?;
    Some(Element {
        tag,
        content,
        whole: &bytes[..bytes.len() - rest.len()],
        rest,
    })
}

/// The part of a certificate that its issuer signed: the first element of the outermost.
pub fn signed_part(certificate: &[u8]) -> &[u8] {
    let outer = element(certificate).expect("a certificate").content;
    element(outer).expect("what is signed").whole
}

/// The part of an OCSP response that its responder signed (RFC 6960 §4.2.1).
pub fn signed_answer(response: &[u8]) -> &[u8] {
    let second = |bytes| {
        element(element(bytes).expect("two elements").rest)
            .expect("a second element")
            .content
    };
    let bytes = element(second(element(response).expect("a response").content)).expect("ResponseBytes");
    let basic = element(second(bytes.content)).expect("a BasicOCSPResponse");
    element(basic.content).expect("what is signed").whole
}
