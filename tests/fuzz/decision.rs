//! The whole decision. The input does not hold evidence: it says which documents of valid evidence to take and what to
//! do to them, so that nearly every input reaches the proof, and only the last checks stand in the way of a key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ec2_instance_connect::authorize::{self, Facts};
use ec2_instance_connect::config::{Anchors, Config};
use ec2_instance_connect::file::Owner;
use ec2_instance_connect::imds::{SignerDocuments, StapleName};
use ec2_instance_connect::instance::InstanceId;
use ec2_instance_connect::keys::Question;
use ec2_instance_connect::request::Fingerprint;
use pki_types::UnixTime;
use std::time::Duration;

use super::evidence::{self, DAY, INSTANCE, NOW, OTHER_INSTANCE, element};

/// The times at which it is judged: when it was made, when each part has ended, before any began.
const TIMES: [u64; 8] = [
    NOW,
    NOW + 59,
    NOW + 60,
    NOW + 3600,
    NOW - 2 * 3600,
    NOW + 8 * DAY,
    NOW + 61 * DAY,
    NOW - 31 * DAY,
];

/// Certificates to begin with or to add.
const CERTIFICATES: [&[u8]; 7] = [
    evidence::LEAF,
    evidence::ISSUER,
    evidence::CROSS_ROOT,
    evidence::EVIL_LEAF,
    evidence::STRANGE_LEAF,
    evidence::STRANGE_ROOT,
    evidence::ROOT,
];

/// Staples to begin with or to add.
const STAPLES: [&[u8]; 7] = [
    evidence::LEAF_STAPLE,
    evidence::ISSUER_STAPLE,
    evidence::LEAF_STAPLE_DELEGATED,
    evidence::EVIL_STAPLE,
    evidence::REVOKED,
    evidence::ENDED,
    evidence::FORGED,
];

const RECORDS: [&[u8]; 3] = [evidence::RECORDS, evidence::OTHER_RECORDS, evidence::EVIL_RECORDS];

/// Lines and words that mean something somewhere.
const WORDS: [&str; 12] = [
    "\n\n",
    "\n",
    "#Instance=i-0123456789abcdef0\n",
    "#Timestamp=9999999999\n",
    "#Caller=arn:aws:iam::123456789012:user/mallory\n",
    "#Request=x\n",
    "#",
    evidence::EVIL_KEY,
    "us-east-2",
    "amazonaws.com.cn",
    "command=\"id\" ",
    "\0",
];

/// Most steps taken: more only make an input slow.
const MAX_STEPS: usize = 16;

/// The documents of one login.
#[derive(Clone)]
struct Documents {
    region: Vec<u8>,
    domain: Vec<u8>,
    /// DER.
    certificates: Vec<Vec<u8>>,
    /// DER.
    staples: Vec<Vec<u8>>,
    keys: Vec<u8>,
}

impl Documents {
    fn all(&mut self) -> Vec<&mut Vec<u8>> {
        let mut all = vec![&mut self.keys, &mut self.region, &mut self.domain];
        all.extend(self.certificates.iter_mut());
        all.extend(self.staples.iter_mut());
        all
    }
}

/// Reads the input; zeros where it has ended.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        usize::from(*first)
    }

    fn below(&mut self, limit: usize) -> usize {
        let number = if limit > 256 {
            self.byte() << 8 | self.byte()
        } else {
            self.byte()
        };
        number % limit.max(1)
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// Makes the evidence that `data` describes, has it judged, and checks every key that comes out. Gives their number.
pub fn decision(data: &[u8]) -> usize {
    let mut input = Input(data);
    let now = TIMES[input.below(TIMES.len())];
    let asked = input.byte();
    let instance = if asked & 1 == 0 { INSTANCE } else { OTHER_INSTANCE };
    let fingerprint = match asked >> 1 & 3 {
        1 => Some("SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ"),
        2 => Some("MD5:ae:6f:ba:1b:70:2c:ae:c7:5c:ab:6e:4d:5e:d4:c7:23"),
        _ => None,
    };
    let mut documents = Documents {
        region: b"us-east-1".to_vec(),
        domain: b"amazonaws.com".to_vec(),
        certificates: [evidence::LEAF, evidence::ISSUER, evidence::CROSS_ROOT]
            .map(<[u8]>::to_vec)
            .to_vec(),
        staples: [evidence::LEAF_STAPLE, evidence::ISSUER_STAPLE]
            .map(<[u8]>::to_vec)
            .to_vec(),
        keys: evidence::RECORDS.to_vec(),
    };
    for _ in 0..MAX_STEPS {
        if input.0.is_empty() {
            break;
        }
        step(&mut documents, &mut input);
    }
    judge(
        &documents,
        instance,
        fingerprint.and_then(|text| Fingerprint::new(text).ok()),
        now,
    )
}

/// One change.
fn step(documents: &mut Documents, input: &mut Input<'_>) {
    let kind = input.below(16);
    // What acts on the lists of documents.
    match kind {
        0 => {
            let certificate = CERTIFICATES[input.below(CERTIFICATES.len())];
            let place = input.below(documents.certificates.len() + 1);
            return documents.certificates.insert(place, certificate.to_vec());
        }
        1 => {
            let staple = STAPLES[input.below(STAPLES.len())];
            let place = input.below(documents.staples.len() + 1);
            return documents.staples.insert(place, staple.to_vec());
        }
        2 => {
            return documents
                .keys
                .extend_from_slice(RECORDS[input.below(RECORDS.len())]);
        }
        3 if !documents.certificates.is_empty() => {
            let place = input.below(documents.certificates.len());
            documents.certificates.remove(place);
            return;
        }
        4 if !documents.staples.is_empty() => {
            let place = input.below(documents.staples.len());
            documents.staples.remove(place);
            return;
        }
        5 if !documents.certificates.is_empty() => {
            let count = documents.certificates.len();
            return documents
                .certificates
                .swap(input.below(count), input.below(count));
        }
        6 => return lines(&mut documents.keys, input),
        _ => {}
    }
    // What acts on the bytes of one document; a piece of another may go into it.
    let other = {
        let mut all = documents.all();
        let place = input.below(all.len());
        all.swap_remove(place).clone()
    };
    let mut all = documents.all();
    let place = input.below(all.len());
    let document = all.swap_remove(place);
    let at = input.below(document.len() + 1);
    let end = (at + input.below(64)).min(document.len());
    match kind {
        7 | 8 => {
            let bit = input.below(8);
            if let Some(byte) = document.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        9 => drop(document.drain(at..end)),
        10 => {
            let count = input.below(32);
            drop(document.splice(at..at, input.bytes(count).iter().copied()));
        }
        11 => document.truncate(at),
        12 => {
            let from = input.below(other.len() + 1);
            let to = (from + input.below(256)).min(other.len());
            drop(document.splice(at..end, other[from..to].iter().copied()));
        }
        13 => {
            let word = WORDS[input.below(WORDS.len())];
            drop(document.splice(at..end, word.bytes()));
        }
        _ => {
            let count = input.below(32);
            let change = match input.below(3) {
                0 => Change::Remove,
                1 => Change::Repeat,
                _ => Change::Replace(input.bytes(count)),
            };
            let mut number = at;
            if let Some(edited) = edit(document, &mut number, change) {
                *document = edited;
            }
        }
    }
    // Inputs that grow without end find nothing that shorter ones do not.
    document.truncate(8192);
}

/// Removes, repeats or exchanges whole lines.
fn lines(document: &mut Vec<u8>, input: &mut Input<'_>) {
    let mut lines: Vec<Vec<u8>> = document
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let (kind, count) = (input.below(3), lines.len());
    let (first, second) = (input.below(count), input.below(count));
    match kind {
        0 => drop(lines.remove(first)),
        1 => lines.insert(second, lines[first].clone()),
        _ => lines.swap(first, second),
    }
    *document = lines.join(&b'\n');
}

/// What to do to one element of a DER document.
#[derive(Clone, Copy)]
enum Change<'a> {
    Remove,
    Repeat,
    Replace(&'a [u8]),
}

/// `der` with its element of this number changed, and all lengths around it put right.
fn edit(der: &[u8], number: &mut usize, change: Change<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = der;
    while !rest.is_empty() {
        let found = element(rest)?;
        rest = found.rest;
        let constructed = found.tag & 0x20 != 0;
        if *number == 0 {
            *number = usize::MAX;
            match change {
                Change::Remove => {}
                Change::Repeat => out.extend([found.whole, found.whole].concat()),
                Change::Replace(content) => out.extend(encode(found.tag, content)),
            }
            continue;
        }
        *number -= usize::from(*number != usize::MAX);
        if constructed && *number != usize::MAX {
            let inner = edit(found.content, number, change);
            out.extend(encode(found.tag, inner.as_deref().unwrap_or(found.content)));
        } else {
            out.extend_from_slice(found.whole);
        }
    }
    Some(out)
}

fn encode(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        Ok(byte) => out.extend([0x81, byte]),
        Err(_) => {
            out.push(0x82);
            out.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

fn judge(documents: &Documents, instance: &str, fingerprint: Option<Fingerprint>, now: u64) -> usize {
    let (Ok(region), Ok(domain)) = (
        String::from_utf8(documents.region.clone()),
        String::from_utf8(documents.domain.clone()),
    ) else {
        return 0;
    };
    let mut config = Config {
        owner: Owner::RootOrSelf,
        ..Config::default()
    };
    config.trust.anchors = Anchors::File(evidence::anchors());
    let name = StapleName::new("x").expect("it is one");
    let evidence = authorize::Evidence {
        active_keys: documents.keys.clone(),
        documents: SignerDocuments {
            instance_id: None,
            region,
            domain,
            signer_cert: documents
                .certificates
                .iter()
                .flat_map(|der| evidence::pem(der))
                .collect(),
            staple_names: Vec::new(),
        },
        staples: documents
            .staples
            .iter()
            .map(|der| (name.clone(), STANDARD.encode(der).into_bytes()))
            .collect(),
    };
    let question = Question {
        instance: &InstanceId::new(instance).expect("it is one"),
        fingerprint,
        now: UnixTime::since_unix_epoch(Duration::from_secs(now)),
    };
    let Ok(verdicts) = authorize::judge(&evidence, question, &config, &mut Facts::default()) else {
        return 0;
    };
    let keys: Vec<_> = verdicts.into_iter().flatten().collect();
    if !keys.is_empty() {
        prove(documents, now);
    }
    for key in &keys {
        evidence::check(key, instance, now);
        if let Some(Fingerprint::Sha256(_)) = fingerprint {
            assert_eq!(Some(key.fingerprint()), fingerprint);
        }
        assert!(
            fingerprint.is_none() || key.line() == evidence::KEYS[0],
            "not the key that was asked about"
        );
    }
    keys.len()
}

/// A key came out, so all of this must be so: what was signed is there unchanged, and it is neither too early, nor too
/// late, nor revoked. What nobody signed (the order, what stands around) may be otherwise.
fn prove(documents: &Documents, now: u64) {
    let Documents {
        region,
        domain,
        certificates,
        staples,
        ..
    } = documents;
    assert_eq!(
        (region.as_slice(), domain.as_slice()),
        (b"us-east-1".as_slice(), b"amazonaws.com".as_slice())
    );
    assert!(
        evidence::holds(&certificates[..1], evidence::signed_part(evidence::LEAF)),
        "by another signer"
    );
    assert!(
        evidence::holds(certificates, evidence::signed_part(evidence::ISSUER)),
        "the chain has a gap"
    );
    let (before, after) = evidence::LEAF_DAYS;
    assert!(
        (NOW - before * DAY..=NOW + after * DAY).contains(&now),
        "outside the certificate's time"
    );
    let good = |responses: &[&[u8]]| {
        let mut responses = responses.iter();
        responses.any(|response| evidence::holds(staples, evidence::signed_answer(response)))
    };
    assert!(
        good(&[evidence::LEAF_STAPLE, evidence::LEAF_STAPLE_DELEGATED]),
        "the signer has no staple"
    );
    assert!(good(&[evidence::ISSUER_STAPLE]), "the issuer has no staple");
    assert!(
        !staples.iter().any(|staple| staple == evidence::REVOKED),
        "the signer is revoked"
    );
    // The clocks may be five minutes apart.
    let (before, after) = evidence::STAPLE_WINDOW;
    assert!(
        (NOW - before - 300..=NOW + after + 300).contains(&now),
        "outside the staples' time"
    );
}
